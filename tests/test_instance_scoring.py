"""Instances from the anatomy to the rows: references, predictions, and what a fold's scores say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shiftbench.contract import decode_prediction, grant, validate_prediction
from shiftbench.data.phantoms.abdomen import AbdomenPhantom
from shiftbench.domains import DatasetRef, Part, load_anatomy, load_instances, load_reference
from shiftbench.errors import MethodError
from shiftbench.instances.ids import connected
from shiftbench.materialise import drawn_instances, make_anatomies, make_references
from shiftbench.metrics import INSTANCE_SCORERS, SCORERS, SEGMENT_SCORERS
from shiftbench.scoring import score_fold
from shiftbench.scoring.case import load_arrays
from shiftbench.shifts.acquisition import moved_labels
from shiftbench.shifts.settings import Step
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.types import LabelledSet, Prediction, Recipe, Status, Track

PHANTOM = DatasetRef(
    "phantom/abdomen",
    phantom={
        "patients": 8,
        "shape": (10, 48, 48),
        "spacing_mm": (8.0, 8.0, 8.0),
        "supersampling": (1, 1, 1),
        "seed": 0,
    },
)
STRUCTURES = ["liver", "tumour"]
TOLERANCES = [["liver", 8.0], ["tumour", 8.0]]
PANOPTIC = Task(3, "panoptic", (2,))
CASES = ("p0001", "p0002", "p0007")
COUNTED = {**SCORERS, **SEGMENT_SCORERS, **INSTANCE_SCORERS}
IMAGE = torch.zeros(1, 6, 8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Anatomies of three patients with several tumours each."""
    made = Store(tmp_path_factory.mktemp("store"))
    make_anatomies(made, "a", PHANTOM, CASES, {"lesion_load": 4.0})
    made.publish("images", "i", {"measured": {}, "not_applicable": {"p0007": "too thick"}})
    return made


def references(store, key, protocol=None, **options):
    make_references(store, key, "a", PHANTOM, CASES, STRUCTURES, protocol or {}, instances=True, **options)


def pairs(store, key):
    return {case: (load_reference(store, key, case), load_instances(store, key, case)) for case in CASES}


def test_every_tumour_voxel_has_the_id_of_its_lesion_and_nothing_else_has_one(store):
    references(store, "plain")
    for case, (reference, ids) in pairs(store, "plain").items():
        assert ids.dtype == np.int32 and np.array_equal(ids > 0, reference == 2)
        known = load_anatomy(store, "a", case).instances
        both = (ids > 0) & (known > 0)
        found = set(zip(ids[both].tolist(), known[both].tolist(), strict=True))
        assert both.any() and len(found) == len({a for a, _ in found}) == len({b for _, b in found}) == ids.max()
    assert any(ids.max() > connected(ids > 0).max() for _, ids in pairs(store, "plain").values())  # some touch


def test_ids_are_stored_only_where_they_are_asked_for(store):
    make_references(store, "semantic", "a", PHANTOM, CASES, STRUCTURES, {})
    assert sorted(p.name for p in store.artifact("references", "semantic").iterdir()) == [f"{c}.npy" for c in CASES]
    references(store, "stored")
    smallest = np.load(store.artifact("references", "stored") / f"{CASES[0]}.instances.npy")
    assert smallest.dtype == np.uint8


def test_a_margin_belongs_to_the_lesion_that_it_was_drawn_around(store):
    references(store, "plain-too")
    references(store, "margin", {"margin_mm": 8.0})
    for (before, known), (after, ids) in zip(
        pairs(store, "plain-too").values(), pairs(store, "margin").values(), strict=True
    ):
        assert (after == 2).sum() > (before == 2).sum() and np.array_equal(ids > 0, after == 2)
        kept = known > 0
        assert ids.max() == known.max() and np.array_equal(ids[kept], known[kept])


def test_ids_move_with_the_labels_where_the_acquisition_moves_the_anatomy(store):
    steps = [Step("distortion", 8.0)]
    references(store, "still")
    references(store, "moved", steps=steps, domain_seed=3)
    dataset = PHANTOM.open()
    for case in CASES:
        anatomy = load_anatomy(store, "a", case)
        moved = moved_labels(anatomy, steps, key=(3, dataset.digest, case))
        reference, ids = load_reference(store, "moved", case), load_instances(store, "moved", case)
        assert not np.array_equal(reference, load_reference(store, "still", case))
        assert np.array_equal(ids, drawn_instances(moved, reference, dataset, STRUCTURES))
        both = (ids > 0) & (moved.instances > 0)
        assert both.sum() > 0.9 * (ids > 0).sum()
        found = set(zip(ids[both].tolist(), moved.instances[both].tolist(), strict=True))
        assert len(found) == len({a for a, _ in found})


def test_an_annotator_s_lesion_that_is_none_is_counted_as_a_component(store):
    anatomy = load_anatomy(store, "a", CASES[0])
    reference = np.zeros(anatomy.fine.shape, np.uint8)
    reference[0, :2, :2], reference[0, 0, 5:8] = 2, 2
    ids = drawn_instances(anatomy, reference, PHANTOM.open(), STRUCTURES)
    assert ids.max() == 2 and np.array_equal(ids > 0, reference == 2)


def fold(store, key, predictions, *, layout=PANOPTIC, statuses=None, **options):
    """Rows of a fold whose predictions are (labels, ids or None) by case."""
    if not store.done("references", f"of-{key}"):
        references(store, f"of-{key}")
    entries = {case: {"status": str((statuses or {}).get(case, Status.OK)), "detail": ""} for case in CASES}
    with store.workspace() as folder:
        for case, (labels, ids) in predictions.items():
            np.savez(folder / f"{case}.npz", labels=labels, **({} if ids is None else {"instances": ids}))
        store.publish("predict", key, {"cases": entries}, folder)
    test = Part((("a", "i", f"of-{key}", CASES),))
    return score_fold(store, {"cases": entries}, key, test, TOLERANCES, layout=layout, **options)


def of(rows, case, structure="tumour"):
    mine = [r for r in rows if (r["case"], r["structure"]) == (case, structure) and r["metric"] in COUNTED]
    return {r["metric"]: (r["value"], r["status"]) for r in mine if r["definition"] == COUNTED[r["metric"]].definition}


def test_a_fold_has_rows_of_instances_for_every_case_whatever_became_of_it(store):
    references(store, "of-fold")
    truth = pairs(store, "of-fold")
    one_blob = {case: (labels, (ids > 0).astype(np.int32)) for case, (labels, ids) in truth.items()}
    rows = fold(store, "fold", one_blob, statuses={"p0002": Status.TIMEOUT})
    for case in CASES:
        assert list(of(rows, case)) == list(COUNTED)
        assert list(of(rows, case, "liver")) == [*SCORERS, *SEGMENT_SCORERS]
    merged = of(rows, "p0001")
    assert merged["dsc"] == (1.0, "ok") and merged["pq"][0] < 0.5
    assert of(rows, "p0002")["pq"] == (0.0, "timeout") == of(rows, "p0002")["instance_recall"]
    assert set(of(rows, "p0007").values()) == {(None, "not_applicable")}
    perfect = of(fold(store, "perfect", truth), "p0001")
    assert [perfect[name] for name in ("pq", "sq", "rq", "instance_precision")] == [(1.0, "ok")] * 4


def test_a_semantic_fold_has_the_rows_it_always_had(store):
    references(store, "of-semantic")
    truth = pairs(store, "of-semantic")
    plain = fold(store, "semantic", {case: (labels, None) for case, (labels, _) in truth.items()}, layout=None)
    assert {row["metric"] for row in plain} >= set(SCORERS) and not {row["metric"] for row in plain} & set(
        SEGMENT_SCORERS
    )
    references(store, "of-counted")
    counted = fold(store, "counted", truth)
    assert [row for row in plain if row["metric"] in SCORERS] == [row for row in counted if row["metric"] in SCORERS]


def test_a_stored_prediction_without_ids_is_invalid_where_they_are_counted(store):
    references(store, "of-lacking")
    rows = fold(store, "lacking", {case: (labels, None) for case, (labels, _) in pairs(store, "of-lacking").items()})
    assert of(rows, "p0001")["pq"] == (0.0, "invalid_output") == of(rows, "p0001")["dsc"]
    assert "instances" not in load_arrays(store.artifact("predict", "lacking"), "p0001")


def test_a_permuted_reference_brings_its_own_ids(store):
    references(store, "of-permuted")
    truth = pairs(store, "of-permuted")
    borrowed = {"p0001": "p0002", "p0002": "p0001", "p0007": "p0007"}
    rows = fold(store, "permuted", {case: truth[donor] for case, donor in borrowed.items()}, donors=borrowed)
    assert of(rows, "p0001")["pq"] == (1.0, "ok") == of(rows, "p0002")["pq"]


def blobs() -> torch.Tensor:
    labels = torch.zeros(6, 8, dtype=torch.long)
    labels[1:4, 1:3], labels[1:4, 5:8], labels[5] = 2, 2, 1
    return labels


def test_a_method_that_returns_labels_alone_gets_connected_components():
    labels, ids = decode_prediction(Prediction(labels=blobs()), IMAGE, PANOPTIC)
    assert labels.dtype == np.uint8 and ids.dtype == np.int32
    assert ids.max() == 2 and np.array_equal(ids > 0, labels == 2)


def test_a_method_s_own_ids_are_kept_and_made_to_fit():
    own = torch.zeros(6, 8, dtype=torch.long)
    own[1:4, 1:3], own[1, 5:8], own[2:4, 5:8], own[0] = 9, 4, 7, 3
    _, ids = decode_prediction(Prediction(labels=blobs(), instances=own), IMAGE, PANOPTIC)
    assert ids.max() == 3 and len(np.unique(ids[1:4, 5:8])) == 2 and (ids[0] == 0).all()
    small = Task(3, "panoptic", (2,), min_voxels=4)
    labels, ids = decode_prediction(Prediction(labels=blobs(), instances=own), IMAGE, small)
    assert ids.max() == 2 and (labels[1, 5:8] == 0).all()


def test_ids_are_decoded_from_heads_with_the_labels_that_are_scored():
    task = Task(3, "panoptic", (2,), ("boundary",))
    joined = blobs()
    joined[1:4, 1:8] = 2
    heads = torch.full((1, 6, 8), -9.0)
    heads[:, :, 4:6] = 9.0
    logits = 9.0 * torch.nn.functional.one_hot(joined, 3).movedim(-1, 0).float()
    for prediction in (
        Prediction(log_probabilities=logits.log_softmax(0), heads=heads),
        Prediction(labels=joined, heads=heads),
    ):
        labels, ids = decode_prediction(prediction, IMAGE, task)
        assert ids.max() == 2 and np.array_equal(labels, joined.numpy())
    _, ids = decode_prediction(Prediction(log_probabilities=logits.log_softmax(0)), IMAGE, task)
    assert ids.max() == 1


def test_semantic_tasks_have_no_ids():
    labels, ids = decode_prediction(Prediction(labels=blobs()), IMAGE, Task(3))
    assert ids is None and np.array_equal(labels, blobs().numpy())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"heads": torch.zeros(2, 6, 8)}, r"heads has the shape"),
        ({"heads": torch.zeros(1, 6, 8, dtype=torch.long)}, "heads has the dtype"),
        ({"heads": torch.full((1, 6, 8), float("nan"))}, "heads holds NaN"),
        ({"instances": torch.zeros(6, 7, dtype=torch.long)}, "instances has the shape"),
        ({"instances": torch.zeros(6, 8)}, "instances has the dtype"),
        ({"instances": torch.full((6, 8), -1)}, "negative"),
    ],
)
def test_heads_and_ids_that_cannot_be_used_are_refused_in_one_sentence(wrong, words):
    with pytest.raises(MethodError, match=words):
        validate_prediction(Prediction(labels=blobs(), **wrong), IMAGE, 3, heads=1)


class FewShot:
    track, episode, requires, k = Track.FEWSHOT, None, (), 2


def test_a_few_shot_prefix_holds_the_ids_of_its_cases():
    cases = LabelledSet(*([torch.full((1, 2, 2), float(i)) for i in range(4)] for _ in range(2)), list("abcd"))
    ids = [torch.full((2, 2), i) for i in range(4)]
    recipe = Recipe("smoke", 1, 1, 1, (2, 2), 1e-2)
    labelled = LabelledSet(cases.images, cases.references, cases.patients, ids)
    given = grant(FewShot(), recipe=recipe, labelled_target=labelled).fewshot
    assert len(given) == 2 and given.instances == ids[:2]
    assert grant(FewShot(), recipe=recipe, labelled_target=cases).fewshot.instances is None


def test_things_of_the_phantom_are_those_of_its_references():
    assert set(STRUCTURES) & set(AbdomenPhantom.things) == {"tumour"}
