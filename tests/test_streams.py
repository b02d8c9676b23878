"""Streams: every case once in each order, state kept from target to target, rows apart from all other tables."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows

import shiftbench
from scenarios import TINY, write
from shiftbench import plan as planning
from shiftbench.domains import Part
from shiftbench.errors import SpecError
from shiftbench.graph import MethodCard, Options
from shiftbench.metrics.scorers import SCORERS
from shiftbench.plan.orders import passes
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.sections import sections
from shiftbench.rng import generator
from shiftbench.robustness.streams import outside_streams, streams
from shiftbench.spec import Stream, load_scenario
from shiftbench.store import Store
from shiftbench.types import Track

TARGETS = ("a", "b", "c", "d")
ORDERS = ("continual", "gradual", "mixed", "correlated")
STREAM = """
[[stream]]
name = "week"
order = "continual"
targets = ["noise:3", "site-a", "hilum-in"]
order_seeds = [0, 1]
"""


def card(name, episode, track=Track.TTA):
    return MethodCard(name, name, "1", track, episode, {}, (), {"path": name})


def parts_of(n=10):
    """A test part of `n` cases per target; the same case ids in all, as on phantoms."""
    return {
        name: Part((("anatomy", f"images-{name}", "references", tuple(f"c{i}" for i in range(n))),)) for name in TARGETS
    }


def order_of(order, seed=0, n=10, **fields):
    stream = Stream(name="s", order=order, targets=TARGETS, order_seeds=(seed,), **fields)
    (each,) = passes(stream, parts_of(n), domain_seed=0)
    return each.order


def blocks(order):
    """The targets in the order in which they begin, with their lengths."""
    found = []
    for name, _ in order:
        if found and found[-1][0] == name:
            found[-1][1] += 1
        else:
            found.append([name, 1])
    return [tuple(block) for block in found]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_every_case_of_every_target_comes_once(order, seed):
    got = order_of(order, seed)
    assert sorted(got) == sorted((name, f"c{i}") for name in TARGETS for i in range(10))


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_that_of_its_seed(order):
    assert order_of(order, 1) == order_of(order, 1) != order_of(order, 2)


def test_a_continual_stream_is_as_listed_for_seed_0_and_permuted_for_others():
    assert blocks(order_of("continual", 0)) == [(name, 10) for name in TARGETS]
    others = {tuple(blocks(order_of("continual", seed))) for seed in range(1, 9)}
    assert len(others) > 3 and all(len(each) == 4 for each in others)
    assert [case for _, case in order_of("continual", 0)[:10]] != [f"c{i}" for i in range(10)]


@pytest.mark.parametrize("seed", range(3))
def test_a_gradual_stream_goes_there_and_back(seed):
    assert blocks(order_of("gradual", seed, n=9)) == [
        ("a", 5),
        ("b", 5),
        ("c", 5),
        ("d", 9),
        ("c", 4),
        ("b", 4),
        ("a", 4),
    ]


def test_a_correlated_stream_is_more_uneven_than_a_mixed_one_and_less_than_a_continual_one():
    length = {order: np.mean([len(blocks(order_of(order, s))) for s in range(20)]) for order in ORDERS}
    assert length["continual"] == 4 < length["correlated"] < length["mixed"] / 2
    even = np.mean([len(blocks(order_of("correlated", s, concentration=100.0))) for s in range(20)])
    assert even > length["correlated"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"hilum-in"]', '"hilum"]', "unknown target 'hilum' in stream 'week'; did you mean 'hilum-in'?"),
        ('"hilum-in"]', '"noise:3"]', "lists the target 'noise:3' twice"),
        ("[0, 1]", "[0, 0]", "lists an order seed twice"),
        ('"continual"', '"sorted"', "'continual', 'gradual', 'mixed' or 'correlated'"),
        ("order_seeds", "order_seed", "did you mean 'order_seeds'?"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, old, new, words):
    with pytest.raises(SpecError) as error:
        load_scenario(write(tmp_path, TINY + STREAM.replace(old, new)))
    assert words in str(error.value)


def test_online_methods_run_over_the_stream_and_the_others_are_not_run_again(tmp_path):
    scenario = load_scenario(write(tmp_path, TINY + STREAM))
    methods = [card("erm", "offline", Track.DG), card("e", "episodic"), card("o", "online"), card("c", "continual")]
    methods += [card("off", "offline"), card("s", "online", Track.SFDA), card("h", "episodic", Track.HARMONISE)]
    plain = planning.plan([without_streams(scenario)], methods, Options(), "s")
    graph = planning.plan([scenario], methods, Options(), "s")
    more = [t for name, t in graph.tasks.items() if name not in plain.tasks]
    assert {t.payload["identity"][0] for t in more if t.kind == "predict"} == {"o", "c"}
    assert len([t for t in more if t.kind == "predict"]) == 4 and len([t for t in more if t.kind == "score"]) == 12
    assert {u.row["method"] for u in graph.streams} == {"erm", "e", "o", "c"}
    assert len(graph.streams) == 4 * 2 * 3 and len(graph.units) == len(plain.units)
    alone = {(u.row["method"], u.row["target"]): u.folds for u in graph.units}
    for unit in graph.streams:
        assert (unit.folds == alone[unit.row["method"], unit.row["target"]]) == (unit.row["method"] in ("erm", "e"))


def without_streams(scenario):
    """The scenario without its streams."""
    return scenario.model_copy(update={"stream": ()})


COUNTER = '''
"""Says which case of the stream it sees: the label of the first voxels counts them."""
from dataclasses import dataclass, field
import torch
from shiftbench.api import Access, Episode, Prediction, Track

@dataclass(frozen=True)
class Method:
    track: Track = Track.TTA
    episode: Episode = Episode.CONTINUAL
    requires: tuple[str, ...] = ()
    fault: bool = False

    def adapt(self, model, access, *, rng):
        seen = []

        def count(image):
            seen.append(1)
            if self.fault and len(seen) == 2:
                raise RuntimeError("the second case")
            labels = torch.zeros(image.shape[1:], dtype=torch.long)
            labels.view(-1)[: len(seen)] = 1
            return Prediction(labels=labels)

        return count

VARIANTS = {"counter": Method(), "counter_broken": Method(fault=True)}
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(rows, result folder, graph) of a run with a stream."""
    folder = tmp_path_factory.mktemp("stream")
    path = write(folder, TINY + STREAM)
    (folder / "counter.py").write_text(COUNTER)
    methods = [str(folder / "counter.py"), "pred_bn"]
    rows = shiftbench.run(path, methods, out=folder / "out", device="cpu", jobs=2)
    return rows, folder / "out", path, methods


def test_state_is_kept_over_the_whole_stream_and_its_position_is_in_the_row(finished):
    rows, out, *_ = finished
    mine = rows[(rows["method"] == "counter") & rows["stream"].notna()].drop_duplicates("position order_seed".split())
    assert set(mine["status"]) <= {"ok", "missed", "fp_on_negative"} and (mine["stream_order"] == "continual").all()
    for seed, own in mine.groupby("order_seed"):
        assert sorted(own["position"]) == list(range(6)), seed
        for key, position in zip(own["prediction"], own["position"], strict=True):
            labels = np.load(Store(out).artifact("predict", key) / f"{position}.npz")["labels"]
            assert int(labels.sum()) == position + 1
    first = mine[mine["order_seed"] == 0].sort_values("position")["target"].tolist()
    assert first == ["noise:3"] * 2 + ["site-a"] * 2 + ["hilum-in"] * 2


def test_every_row_of_a_stream_is_there_once(finished):
    rows, *_ = finished
    key = ["target", "method", "seed", "case", "structure", "metric", "definition", "stream", "order_seed"]
    assert not rows.duplicated(key).any()
    for method in ("erm", "pred_bn", "counter", "counter_broken"):
        mine = rows[(rows["method"] == method) & rows["stream"].notna() & rows["metric"].isin(SCORERS)]
        rows_of_masks = sum(len(scorer.definitions) for scorer in SCORERS.values())
        assert len(mine) == 2 * 3 * 2 * 2 * rows_of_masks, method  # orders, targets, cases, structures


def test_source_only_scores_the_same_in_a_stream_as_alone(finished):
    rows, *_ = finished
    erm = rows[(rows["method"] == "erm") & (rows["metric"] == "dsc")]
    keys = ["target", "case", "structure"]
    alone = outside_streams(erm).set_index(keys)["value"]
    inside = erm[(erm["stream"] == "week") & (erm["order_seed"] == 1)].set_index(keys)["value"]
    pd.testing.assert_series_equal(inside.sort_index(), alone.loc[inside.index].sort_index())


def test_a_case_that_fails_in_a_stream_is_failed_rows_of_that_position_alone(finished):
    rows, *_ = finished
    mine = rows[(rows["method"] == "counter_broken") & rows["stream"].notna() & (rows["metric"] == "dsc")]
    failed = mine[mine["status"] == "failed"]
    assert set(failed["position"]) == {1} and failed["detail"].str.contains("the second case").all()
    assert "ok" in set(mine["status"])


def test_streams_come_back_from_the_folder_and_enter_their_own_table_alone(finished):
    rows, out, *_ = finished
    read = shiftbench.read_rows(out)
    assert read["position"].dtype == "Int64" and set(read["order_seed"].dropna()) == {0, 1}
    pd.testing.assert_frame_equal(leaderboard(read), leaderboard(outside_streams(read)))
    (section,) = [s for s in sections(read) if s.file == "streams.csv"]
    assert {"erm", "pred_bn", "counter"} <= set(section.table["method"])


def test_a_second_run_computes_no_stream_again(finished):
    rows, out, path, methods = finished
    before = {p: p.stat().st_mtime_ns for p in (out / "records" / "predict").rglob("*.json")}
    again = shiftbench.run(path, methods[::-1], out=out, device="cpu")
    kept = {p: p.stat().st_mtime_ns for p in (out / "records" / "predict").rglob("*.json")}
    assert before.items() <= kept.items()
    pd.testing.assert_frame_equal(again.drop(columns=["seconds", "peak_mb"]), rows.drop(columns=["seconds", "peak_mb"]))


def streamed(rows, gains, n_orders=2):
    """`rows` as a stream whose methods gain `gains` = (first third, later) above what they have."""
    passes_ = []
    for seed in range(n_orders):
        own = rows[rows["target"] != rows["source"]].copy()
        places = own[["target", "case"]].drop_duplicates()
        order = generator(seed, "order").permutation(len(places))
        at = dict(zip(places.itertuples(index=False, name=None), order, strict=True))
        own["position"] = [at[key] for key in zip(own["target"], own["case"], strict=True)]
        early = own["position"] * 3 < len(places)
        for method, (first, later) in gains.items():
            mine = own["method"] == method
            own.loc[mine, "value"] = own.loc[own["method"] == "erm", "value"].to_numpy() + np.where(
                early[mine], first, later
            )
        passes_.append(own.assign(stream="s", stream_order="mixed", order_seed=seed))
    return pd.concat(passes_, ignore_index=True)


def test_the_table_tells_a_gain_that_turns_into_a_loss():
    rows = make_rows(patients=9, seeds=(0, 1), methods=("erm", "tent_bn"), levels=(1, 3))
    rows = rows[(rows["scenario"] == "noise") & (rows["metric"] == "dsc")].assign(value=lambda r: r["value"] * 0.5)
    table = streams(streamed(rows, {"tent_bn": (0.2, -0.1)})).set_index("method")
    tent = table.loc["tent_bn"]
    assert tent["gain_first_third"] == pytest.approx(0.2) and tent["gain_last_third"] == pytest.approx(-0.1)
    assert tent["gain"] == pytest.approx(0.0, abs=0.02) and tent["n_orders"] == 2 and tent["n_targets"] == 2
    assert np.isnan(table.loc["erm", "gain"]) and table.loc["erm", "order_sd"] == pytest.approx(0.0)
