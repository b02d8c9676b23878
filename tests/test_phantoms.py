"""The abdominal phantom: same bytes, counterfactual populations, consistent labels, tissue values."""

import hashlib

import numpy as np
import pytest

from shiftbench.data.phantoms import AbdomenPhantom, tissue_maps
from shiftbench.data.phantoms.shapes import majority
from shiftbench.data.phantoms.tissues import PHASES, TISSUES, at_field, mix
from shiftbench.errors import DataError
from shiftbench.types import Anatomy

SMALL = AbdomenPhantom(patients=12, shape=(10, 48, 48), spacing_mm=(8.0, 8.0, 8.0))
INDEX = {name: i for i, name in enumerate(SMALL.fine_labels)}
LIVER_PARTS = [INDEX[n] for n in ("liver", "hilum", "portal_vessel", "hepatic_vessel")]


def bytes_of(anatomy: Anatomy) -> str:
    h = hashlib.sha256()
    for array in (anatomy.fine, anatomy.instances, anatomy.tissue, anatomy.texture):
        h.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(anatomy.values):
        h.update(name.encode() + anatomy.values[name].tobytes())
    return h.hexdigest()


def first_with_tumour(population: dict[str, float]) -> str:
    return next(c.case_id for c in SMALL.cases() if SMALL.anatomy(c.case_id, population).instances.any())


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    forwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0000", "p0001", "p0002")}
    backwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0002", "p0001", "p0000")}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3


def test_the_first_patient_is_the_one_of_this_version():
    anatomy = SMALL.anatomy("p0000", {})
    counts = np.bincount(anatomy.fine.ravel(), minlength=len(INDEX))
    known = (14699, 3288, 1667, 56, 539, 382, 131, 19, 0, 121, 1000, 318, 46, 15, 154, 152, 453)
    assert AbdomenPhantom.version == 1
    assert np.abs(counts - known).max() <= 3  # single voxels may differ between CPU types
    assert anatomy.instances.max() == 3
    assert anatomy.values["T1_ms_1.5T"].mean() == pytest.approx(988.2877, rel=1e-5)
    assert anatomy.values["HU"][5] == pytest.approx(179.5292, rel=1e-5)


def test_another_seed_gives_other_patients_and_another_digest():
    other = AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, seed=1)
    assert other.digest != SMALL.digest
    assert bytes_of(other.anatomy("p0000", {})) != bytes_of(SMALL.anatomy("p0000", {}))


def test_the_digest_changes_with_every_field():
    changed = [
        AbdomenPhantom(patients=13, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm),
        AbdomenPhantom(patients=12, shape=(11, 48, 48), spacing_mm=SMALL.spacing_mm),
        AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=(8.0, 8.0, 7.0)),
        AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, supersampling=(1, 1, 1)),
    ]
    assert len({d.digest for d in changed} | {SMALL.digest}) == 5
    assert AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm).digest == SMALL.digest


def test_a_patient_does_not_depend_on_how_many_there_are():
    more = AbdomenPhantom(patients=40, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm)
    assert bytes_of(more.anatomy("p0003", {})) == bytes_of(SMALL.anatomy("p0003", {}))


def test_a_larger_lesion_load_keeps_everything_but_the_tumours():
    case = first_with_tumour({})
    few, many = SMALL.anatomy(case, {"lesion_load": 1.0}), SMALL.anatomy(case, {"lesion_load": 8.0})
    changed = few.tissue != many.tissue
    assert changed.any()
    names = np.array(SMALL.fine_labels)[many.values["fine_label"].astype(int)[many.tissue[changed]]]
    assert set(names) <= {"tumour", "liver"}  # liver: the outer edge of a tumour
    was = np.array(SMALL.fine_labels)[few.values["fine_label"].astype(int)[few.tissue[changed]]]
    assert set(was) <= {"tumour", "liver", "hilum", "portal_vessel", "hepatic_vessel"}
    shared = len(few.values["PD"])
    assert all(np.array_equal(few.values[k], many.values[k][:shared]) for k in few.values)
    assert np.array_equal(few.texture, many.texture)
    tumour = INDEX["tumour"]
    assert (many.fine == tumour).sum() > (few.fine == tumour).sum()
    assert many.instances.max() >= few.instances.max()


def test_number_and_volume_of_tumours_grow_with_the_load():
    volumes, counts = [], []
    for load in (0.25, 1.0, 4.0):
        anatomies = [SMALL.anatomy(c.case_id, {"lesion_load": load, "empty_prevalence": 0.0}) for c in SMALL.cases()]
        volumes.append(sum(np.count_nonzero(a.fine == INDEX["tumour"]) for a in anatomies))
        counts.append([a.attributes["tumours"] for a in anatomies])
    assert 1.3 * volumes[0] < volumes[1] and 1.3 * volumes[1] < volumes[2]
    assert np.all(np.diff(counts, axis=0) >= 0) and sum(counts[0]) < sum(counts[1]) < sum(counts[2])


def test_habitus_adds_fat_outside_and_changes_no_organ():
    lean, large = SMALL.anatomy("p0001", {}), SMALL.anatomy("p0001", {"habitus_mm": 30.0})
    changed = lean.tissue != large.tissue
    assert changed.sum() > 0.02 * changed.size
    assert set(np.unique(lean.values["fine_label"][lean.tissue[changed]])) == {INDEX["outside"]}
    assert set(np.unique(large.values["fine_label"][large.tissue[changed]])) == {INDEX["fat"]}
    assert all(np.array_equal(lean.values[k], large.values[k]) for k in lean.values)
    assert np.array_equal(lean.texture, large.texture)


def test_prevalence_decides_who_has_a_tumour_and_is_nested():
    coarse = AbdomenPhantom(patients=12, shape=(8, 24, 24), spacing_mm=(10.0, 16.0, 16.0))

    def with_tumour(share: float) -> set[str]:
        found = [coarse.anatomy(c.case_id, {"empty_prevalence": share}) for c in coarse.cases()]
        return {a.case_id for a in found if a.attributes["tumours"] > 0}

    everybody = {c.case_id for c in coarse.cases()}
    none, some, all_ = with_tumour(1.0), with_tumour(0.5), with_tumour(0.0)
    assert none == set() and all_ == everybody
    assert set() < some < everybody
    assert with_tumour(0.7) <= some


def test_fine_labels_are_the_majority_of_the_tissues_in_a_voxel():
    anatomy = SMALL.anatomy("p0002", {})
    labels = anatomy.values["fine_label"].astype(int)[anatomy.tissue]
    d, h, w = SMALL.shape
    blocks = labels.reshape(d, h, 2, w, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    fine = anatomy.fine.ravel()
    for i in range(0, len(fine), 37):
        counts = np.bincount(blocks[i], minlength=len(SMALL.fine_labels))
        assert counts[fine[i]] == counts.max()


def test_ties_of_the_majority_go_to_the_later_label():
    labels = np.array([[[1, 1], [3, 3]]], np.uint8)
    assert majority(labels, (1, 2, 2), 5).tolist() == [[[3]]]
    assert np.array_equal(majority(labels, (1, 1, 1), 5), labels)


def test_every_label_of_the_contract_exists_in_a_handful_of_patients():
    seen = set()
    for i in range(6):
        seen |= set(np.unique(SMALL.anatomy(f"p{i:04d}", {}).fine))
    assert seen == set(range(len(SMALL.fine_labels)))
    used = {f for names in SMALL.members.values() for f in names} | set(SMALL.optional_members)
    assert used <= set(SMALL.fine_labels) and SMALL.fine_labels[0] == "outside"


def test_instances_are_where_tumours_are_and_nowhere_else():
    for i in range(6):
        anatomy = SMALL.anatomy(f"p{i:04d}", {"lesion_load": 4.0})
        assert np.array_equal(anatomy.instances > 0, anatomy.fine == INDEX["tumour"])


def test_tumours_too_small_for_a_voxel_are_not_labelled():
    coarse = AbdomenPhantom(patients=3, shape=(4, 12, 12), spacing_mm=(30.0, 32.0, 32.0))
    for case in coarse.cases():
        anatomy = coarse.anatomy(case.case_id, {"lesion_load": 0.05, "empty_prevalence": 0.0})
        assert anatomy.attributes["tumours"] >= 1
        assert np.array_equal(anatomy.instances > 0, anatomy.fine == INDEX["tumour"])
        assert all(np.isfinite(m).all() for m in tissue_maps(anatomy).values())


def test_hilum_and_vessels_are_large_enough_to_measure_a_protocol_with():
    grid = AbdomenPhantom(patients=8, shape=(20, 64, 64), spacing_mm=(4.0, 6.25, 6.25))
    counts = sum(
        np.bincount(grid.anatomy(c.case_id, {"empty_prevalence": 1.0}).fine.ravel(), minlength=len(INDEX))
        for c in grid.cases()
    )
    liver = counts[LIVER_PARTS].sum()
    assert 0.09 < counts[INDEX["hilum"]] / liver < 0.20
    assert 0.035 < (counts[INDEX["portal_vessel"]] + counts[INDEX["hepatic_vessel"]]) / liver < 0.10


def test_organs_have_plausible_volumes_and_vary_between_patients():
    grid = AbdomenPhantom(patients=8, shape=(50, 48, 48), spacing_mm=(6.0, 8.0, 8.0))
    counts = np.array(
        [np.bincount(grid.anatomy(c.case_id, {}).fine.ravel(), minlength=len(INDEX)) for c in grid.cases()]
    )
    ml = counts * 6 * 8 * 8 / 1000
    for volume, (low, high) in (
        (ml[:, [*LIVER_PARTS, INDEX["tumour"]]].sum(1), (600, 2600)),
        (ml[:, INDEX["spleen"]], (50, 500)),
        (ml[:, INDEX["kidney"]], (120, 600)),
    ):
        assert low < volume.min() and volume.max() < high and volume.std() > 0.05 * volume.mean()


def test_a_patient_is_alike_on_another_grid():
    coarse, fine = (SMALL.anatomy("p0004", {}), None)
    fine = AbdomenPhantom(patients=12, shape=(20, 96, 96), spacing_mm=(4.0, 4.0, 4.0)).anatomy("p0004", {})
    for name in ("muscle", "spine", "kidney"):
        a = np.count_nonzero(coarse.fine == INDEX[name]) * 8.0**3
        b = np.count_nonzero(fine.fine == INDEX[name]) * 4.0**3
        assert a == pytest.approx(b, rel=0.15)


def test_maps_are_finite_and_positive_and_follow_the_tissue():
    anatomy = SMALL.anatomy("p0000", {})
    maps = tissue_maps(anatomy)
    assert set(maps) == {"T1_ms", "T2_ms", "T2star_ms", "PD", "HU", "HU_unenhanced"}
    for name, values in maps.items():
        assert values.shape == anatomy.tissue.shape and values.dtype == np.float32 and np.isfinite(values).all()
        if name.startswith("T"):
            assert values.min() > 0
    assert maps["PD"].min() >= 0 and np.all(maps["PD"][anatomy.tissue == 0] == 0)
    assert np.all(maps["HU"][anatomy.tissue == 0] == -1000)
    for index in np.unique(anatomy.tissue):
        inside = anatomy.tissue == index
        if inside.sum() > 1000:
            assert maps["T1_ms"][inside].mean() == pytest.approx(anatomy.values["T1_ms_1.5T"][index], rel=0.04)


def test_texture_is_correlated_along_all_three_axes():
    texture = SMALL.anatomy("p0000", {}).texture
    fine = AbdomenPhantom(patients=1, shape=(24, 32, 32), spacing_mm=(4.0, 4.0, 4.0)).anatomy("p0000", {}).texture
    assert texture.shape == (2, *SMALL.shape) and abs(float(texture.mean())) < 0.02
    for axis in (1, 2, 3):
        a, b = (np.take(fine, np.arange(fine.shape[axis] - 1) + step, axis).ravel() for step in (0, 1))
        assert np.corrcoef(a, b)[0, 1] > 0.7


@pytest.mark.parametrize(("field_t", "index"), [(1.5, 0), (3.0, 1)])
def test_the_power_law_passes_through_both_tabulated_fields(field_t, index):
    for tissue in TISSUES.values():
        low, high = np.float32(tissue.t1_ms[0]), np.float32(tissue.t1_ms[1])
        assert at_field(low, high, field_t) == pytest.approx(tissue.t1_ms[index], rel=1e-5)


def test_t1_grows_with_the_field_and_keeps_the_order_of_the_abdomen():
    order = ("fat", "liver", "muscle", "kidney_cortex", "spleen", "kidney_medulla", "csf")
    at_15 = [TISSUES[name].t1_ms[0] for name in order]
    assert at_15 == sorted(at_15)
    for tissue in TISSUES.values():
        low, high = (np.float32(t) for t in tissue.t1_ms)
        assert at_field(low, high, 0.55) <= low <= high <= at_field(low, high, 7.0)
    assert all(t.t2star_ms[i] <= t.t2_ms[i] + 1 for t in TISSUES.values() for i in (0, 1))


def test_portal_venous_enhancement_orders_the_abdomen_as_in_the_clinic():
    portal = {name: TISSUES[name].hu[PHASES.index("portal_venous")] for name in TISSUES}
    order = ("air", "fat", "bile", "muscle", "tumour", "liver", "spleen", "blood_portal", "kidney_cortex")
    assert [portal[name] for name in order] == sorted(portal[name] for name in order)
    maps = {phase: tissue_maps(SMALL.anatomy("p0000", {}), phase=phase)["HU"] for phase in PHASES}
    assert maps["portal_venous"].mean() > maps["unenhanced"].mean()


def test_a_mixture_lies_between_its_parts():
    half = mix([(TISSUES["fat"], 0.5), (TISSUES["liver"], 0.5)], "half and half")
    assert half.t1_ms[0] == pytest.approx(2 / (1 / 343 + 1 / 586))
    assert half.pd == pytest.approx((0.95 + 0.72) / 2) and half.hu[0] == pytest.approx((-100 + 58) / 2)


@pytest.mark.parametrize(
    ("case", "population", "message"),
    [
        ("p9999", {}, "unknown case"),
        ("p0000", {"lesion_laod": 1.0}, "did you mean 'lesion_load'"),
        ("p0000", {"habitus_mm": -3.0}, "use a value"),
        ("p0000", {"empty_prevalence": float("nan")}, "use a value"),
    ],
)
def test_an_unknown_case_or_population_is_refused_with_a_remedy(case, population, message):
    with pytest.raises(DataError, match=message):
        SMALL.anatomy(case, population)


def test_maps_of_a_real_scan_or_at_an_impossible_field_are_refused():
    anatomy = SMALL.anatomy("p0000", {})
    real = Anatomy("a", "a", anatomy.geometry, anatomy.fine, image=np.zeros((1, *SMALL.shape), np.float32))
    with pytest.raises(DataError, match="no tissue maps"):
        tissue_maps(real)
    with pytest.raises(DataError, match="0.01 and 12"):
        tissue_maps(anatomy, 0.0)
    with pytest.raises(DataError, match="portal_venous"):
        tissue_maps(anatomy, phase="portal")
