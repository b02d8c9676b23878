"""From rows to tables: who enters, what is compared with what, ranks, ties and refusals."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import fail, make_rows

from shiftbench.errors import OutputError
from shiftbench.report.leaderboard import leaderboard
from shiftbench.rng import generator
from shiftbench.robustness import CONSTANTS, headline, patient_table, severity_curves, summary
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.robustness.recovery import recovery
from shiftbench.stats import holm, mean_interval, paired_difference, unpaired_difference
from shiftbench.types import FAILURES, Row, Status

N = 24
BLANK = Row(**{field.name: "" for field in fields(Row)})
BASE = replace(
    BLANK,
    scenario="liver",
    scenario_version=1,
    source="site-a",
    family="acquisition",
    operator=None,
    level=None,
    level_value=None,
    level_unit=None,
    track="tta",
    backbone="unet",
    budget="quick",
    k=None,
    draw=0,
    seed=0,
    structure="liver",
    metric="dsc",
    definition="counts",
    tolerance=None,
    unit="1",
    bound=None,
    status="ok",
    seconds=0.0,
    peak_mb=None,
    stream=None,
)
TRACKS = {"erm": "dg", "target_oracle": "reference"}


def rows_of(method, target, values, *, prefix="p", **changes) -> list[Row]:
    """One row per patient (or case id), the same for each seed: `values` is (N,) or (S, N)."""
    rows = []
    for seed, per_seed in enumerate(np.atleast_2d(values)):
        for i, value in enumerate(per_seed):
            name = f"{prefix}{i:02d}"
            row = replace(BASE, method=method, target=target, track=TRACKS.get(method, "tta"), seed=seed)
            rows.append(replace(row, case=f"{name}-c", patient=name, value=float(value), **changes))
    return rows


def frame(*groups) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


def noise(*names, scale=0.02, shape=(N,)) -> np.ndarray:
    return generator(0, *names).normal(0, scale, shape)


PATIENTS = noise("patients", scale=0.05)
SOURCE = 0.85 + PATIENTS
CONTROL = {"family": "control"}


def world(method_gain=0.10, *, oracle_gain=0.25, prefix="p", **changes) -> pd.DataFrame:
    """Source-only on its source and on a target, an oracle and a method `tent` there."""
    base = 0.55 + PATIENTS + noise("erm")
    return frame(
        rows_of("erm", "site-a", SOURCE, **CONTROL),
        rows_of("erm", "dose", base, prefix=prefix, **changes),
        rows_of("target_oracle", "dose", base + oracle_gain + noise("oracle"), prefix=prefix, **changes),
        rows_of("tent", "dose", base + method_gain + noise("tent"), prefix=prefix, **changes),
    )


def line(table, **where) -> pd.Series:
    chosen = table
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1, f"{len(chosen)} rows for {where}"
    return chosen.iloc[0]


def scores(rows, method, target="dose") -> np.ndarray:
    return rows[(rows["method"] == method) & (rows["target"] == target)]["value"].to_numpy()


def set_status(rows, where, status) -> pd.DataFrame:
    """The rows with another status, and no value, where `where` holds."""
    return rows.assign(status=rows["status"].mask(where, status), value=rows["value"].mask(where, np.nan))


def test_a_patients_score_is_the_mean_over_structures_then_cases():
    one = rows_of("erm", "dose", [0.8])[0]
    rows = frame(
        [replace(one, case="a", value=0.8), replace(one, case="a", structure="tumour", value=0.4)],
        [replace(one, case="b", value=1.0)],
        [replace(one, case="b", structure="tumour", value=None, status="both_empty")],
        [
            replace(one, case="c", value=0.0, status="fp_on_negative"),
            replace(one, case="c", metric="nsd", definition="S"),
        ],
    )
    table = patient_table(rows)
    assert table["score"].tolist() == [pytest.approx((0.6 + 1.0) / 2)]
    with pytest.raises(ValueError, match="hd95_mm"):
        patient_table(rows, "hd95_mm")


@pytest.mark.parametrize("status", sorted(FAILURES | {Status.MISSED}))
def test_a_failure_counts_as_zero_whatever_value_stands_beside_it(status):
    rows = world()
    first = (rows["method"] == "tent") & (rows["patient"] == "p00")
    before = line(summary(rows), method="tent")["dsc"]
    changed = rows.assign(status=rows["status"].mask(first, status))
    after = line(summary(changed), method="tent")
    assert after["dsc"] == pytest.approx(before - scores(rows, "tent")[0] / N)
    assert after["n_missed" if status == "missed" else "n_failed"] == 1 and after["n_ok"] == N - 1


def test_a_failure_on_a_negative_case_stays_out_of_the_positive_mean():
    rows = world()
    negative = rows["patient"] == "p00"
    rows = set_status(rows, negative & (rows["target"] == "dose"), "both_empty")
    expected = line(summary(rows), method="tent")["dsc"]
    failed = negative & (rows["method"] == "tent")
    assert line(summary(set_status(rows, failed, "timeout")), method="tent")["dsc"] == expected
    every = set_status(rows, negative & (rows["target"] == "dose"), "timeout")
    assert line(summary(every), method="tent")["dsc"] < expected
    told = every.assign(detail=every["detail"].mask(every["status"] == "timeout", "reference_empty"))
    assert line(summary(told), method="tent")["dsc"] == expected


def test_unequal_case_sets_and_doubled_or_valueless_rows_are_refused():
    rows = world()
    tent = (rows["method"] == "tent") & (rows["patient"] == "p00")
    with pytest.raises(OutputError, match="unequal case sets: method 'tent' has 23 of 24"):
        summary(rows[~tent])
    with pytest.raises(OutputError, match="two rows of dsc"):
        summary(pd.concat([rows, rows[tent]]))
    with pytest.raises(OutputError, match="status 'ok' without a value"):
        summary(rows.assign(value=rows["value"].mask(tent, np.nan)))
    with pytest.raises(OutputError, match="without the columns"):
        summary(rows.drop(columns="patient"))
    extra = replace(
        BASE, method="erm", target="dose", track="dg", structure="tumour", case="p00-c", patient="p00", value=1.0
    )
    with pytest.raises(OutputError, match="unequal case sets"):
        summary(pd.concat([rows, frame([extra])], ignore_index=True))


def test_a_method_that_is_not_applicable_to_some_cases_is_not_ranked_and_refuses_nobody():
    rows = world()
    table = summary(set_status(rows, (rows["method"] == "tent") & (rows["patient"] == "p00"), "not_applicable"))
    assert not line(table, method="tent")["ranked"] and line(table, method="tent")["n_not_applicable"] == 1
    assert line(table, method="target_oracle")["ranked"]
    none_at_all = summary(set_status(rows, rows["method"] == "tent", "not_applicable"))
    tent = line(none_at_all, method="tent")
    assert not tent["ranked"] and pd.isna(tent["dsc"]) and tent["n_not_applicable"] == N
    for_all = summary(set_status(rows, (rows["patient"] == "p00") & (rows["target"] == "dose"), "not_applicable"))
    assert line(for_all, method="tent")["ranked"] and line(for_all, method="tent")["n_patients"] == N - 1


def test_the_drop_is_paired_on_the_same_patients_and_welchs_on_real_targets():
    rows = world()
    tent = line(summary(rows), method="tent")
    expected = paired_difference(SOURCE, scores(rows, "tent"))
    assert (tent["drop"], tent["drop_low"], tent["drop_high"]) == (expected.mean, expected.low, expected.high)
    assert tent["drop_paired"]
    for prefix in ("q", "p"):  # two sites may number their patients alike
        real = world(prefix=prefix, family="real")
        tent = line(summary(real), method="tent")
        expected = unpaired_difference(SOURCE, scores(real, "tent"))
        assert (tent["drop"], tent["drop_low"]) == pytest.approx((expected.mean, expected.low))
        assert not tent["drop_paired"]
    own = line(summary(rows), target="site-a")
    assert (own["drop"], own["drop_low"], own["drop_high"]) == (0, 0, 0)


def test_the_recovered_share_is_a_ratio_of_sums_with_its_interval():
    rows = world()
    tent = line(summary(rows), method="tent")
    base, best, own = scores(rows, "erm"), scores(rows, "target_oracle"), scores(rows, "tent")
    assert tent["gap_status"] == "ok"
    assert tent["gap_low"] == pytest.approx(paired_difference(best, base).low)
    assert tent["recovered_percent"] == pytest.approx(100 * (own - base).sum() / (best - base).sum())
    assert tent["recovered_percent"] != pytest.approx(100 * np.mean((own - base) / (best - base)), rel=1e-6)
    draw = generator(0, "jackknife")
    picks = [draw.integers(0, N, N) for _ in range(4000)]
    ratios = [100 * (own - base)[p].sum() / (best - base)[p].sum() for p in picks]
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (tent["recovered_percent_low"], tent["recovered_percent_high"]) == pytest.approx((low, high), abs=1.0)


def test_the_interval_of_the_recovered_share_knows_that_gain_and_gap_go_together():
    gap = 0.3 + noise("gap", scale=0.1)
    tent = line(summary(world(method_gain=0.4 * gap, oracle_gain=gap)), method="tent")
    width = tent["recovered_percent_high"] - tent["recovered_percent_low"]
    assert tent["recovered_percent"] == pytest.approx(40, abs=5)
    assert width < 7, "the gain alone would give 12"


@pytest.mark.parametrize("gain", [0.024, 0.0, -0.1])
def test_no_share_is_given_where_the_gap_is_not_surely_above_the_floor(gain):
    tent = line(summary(world(oracle_gain=gain)), method="tent")
    assert tent["gap_status"] == "no gap" and pd.isna(tent["recovered_percent"]) and not tent["audit"]
    assert tent["gap_low"] <= CONSTANTS.gap_floor and (gain != 0.024 or tent["gap"] > CONSTANTS.gap_floor)


def test_a_target_without_an_oracle_says_so():
    rows = world()
    tent = line(summary(rows[rows["method"] != "target_oracle"]), method="tent")
    assert tent["gap_status"] == "no oracle" and pd.isna(tent["gap"]) and pd.isna(tent["recovered_percent"])


def test_a_method_clearly_above_the_oracle_is_flagged_for_audit():
    assert line(summary(world(method_gain=0.35)), method="tent")["audit"]
    assert not line(summary(world(method_gain=0.26)), method="tent")["audit"], "104 % is within the limit"
    assert not summary(world(method_gain=0.10))["audit"].any()
    by_chance = line(summary(world(method_gain=0.30 + noise("luck", scale=0.4))), method="tent")
    assert by_chance["recovered_percent"] > 110 and not by_chance["audit"], "above, but not significantly"


def test_comparisons_stay_within_a_backbone_and_budget():
    rows = world()
    other = world(method_gain=0.2).assign(backbone="unet-in")
    other["value"] *= 0.5
    together = summary(pd.concat([rows, other], ignore_index=True))
    alone = summary(rows)
    columns = [c for c in alone.columns if c != "backbone"]
    same = together[together["backbone"] == "unet"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same[columns], alone[columns], check_dtype=False)


def test_harm_counts_patients_and_stands_beside_the_harm_of_another_seed():
    base = np.full((2, N), 0.5)
    base[1, :6] -= 0.03  # the second source-only model is worse on a quarter of the patients
    own = base.copy()
    own[:, :3] -= 0.025
    own[:, 3:9] -= 0.015
    table = summary(frame(rows_of("erm", "dose", base), rows_of("tent", "dose", own)))
    tent = line(table, method="tent")
    assert tent["harmed_percent"] == pytest.approx(100 * 3 / N)
    assert tent["harmed_small_percent"] == pytest.approx(100 * 9 / N)
    assert tent["harmed_by_reseeding_percent"] == pytest.approx(100 * 6 / N / 2)
    assert tent["harmed_percent_low"] < tent["harmed_percent"] < tent["harmed_percent_high"]
    assert tent["n_seeds"] == 2 and not tent["conditional"]


def test_one_seed_is_marked_conditional_and_draws_are_averaged_within_a_seed():
    rows = world()
    assert summary(rows)["conditional"].all()
    first, second = (rows_of("fewshot_ft", "dose", 0.7 + PATIENTS + d, draw=i, k=5) for i, d in enumerate((0, 0.1)))
    few = line(summary(pd.concat([rows, frame(first, second)], ignore_index=True)), method="fewshot_ft")
    assert few["dsc"] == pytest.approx((0.75 + PATIENTS).mean()) and few["n_seeds"] == 1 and few["k"] == 5


def test_mean_nsd_stands_beside_dsc_and_other_definitions_do_not_mix_in():
    rows = world()
    nsd = rows.assign(metric="nsd", definition="S", value=rows["value"] - 0.1)
    voxel = rows.assign(metric="nsd", definition="V", value=0.0)
    tent = line(summary(pd.concat([rows, nsd, voxel], ignore_index=True)), method="tent")
    assert tent["nsd"] == pytest.approx(tent["dsc"] - 0.1)


def board(*gains, families=("acquisition", "combined"), spread=0.02) -> list[list[Row]]:
    """Methods m0, m1, ... with the given gains on one target per family."""
    return [
        rows_of(f"m{i}", f"t-{family}", 0.6 + gain + PATIENTS + noise(i, family, scale=spread), family=family)
        for i, gain in enumerate(gains)
        for family in families
    ]


def test_families_weigh_the_same_in_the_overall_score_and_controls_never_enter():
    rows = frame(
        rows_of("m0", "t1", 0.9 + 0 * PATIENTS),
        rows_of("m0", "t2", 0.7 + 0 * PATIENTS),
        rows_of("m0", "t3", 0.4 + 0 * PATIENTS, family="population"),
        rows_of("m0", "site-a", 0 * PATIENTS, family="control"),
        rows_of("m0", "broken", 0 * PATIENTS, family="fault"),
    )
    table = headline(rows)
    assert dict(zip(table["family"], table["dsc"], strict=True)) == pytest.approx(
        {"acquisition": 0.8, "population": 0.4, "overall": 0.6}
    )
    assert dict(zip(table["family"], table["n_targets"], strict=True)) == {
        "acquisition": 2,
        "population": 1,
        "overall": 3,
    }


def test_the_interval_of_several_targets_on_the_same_patients_is_that_of_the_patients_means():
    rows = frame(*board(0.1))
    overall = line(headline(rows), family="overall")
    values = [rows[rows["family"] == f]["value"].to_numpy() for f in ("acquisition", "combined")]
    expected = mean_interval(np.mean(values, axis=0))
    assert (overall["dsc"], overall["dsc_low"]) == pytest.approx((expected.mean, expected.low))
    assert overall["n_patients"] == N and overall["conditional"]


def test_annotation_targets_rank_only_methods_with_target_labels():
    blind = frame(*board(0.1, 0.2, families=("acquisition", "annotation")))
    table = headline(blind)
    notes = table[table["family"] == "annotation"]
    assert notes["rank"].isna().all() and set(notes["note"]) == {"not ranked: no target labels"}
    for method in ("m0", "m1"):
        both = table[table["method"] == method].set_index("family")["dsc"]
        assert both["overall"] == both["acquisition"] != both["annotation"]
    seeing = headline(blind.assign(track="fewshot"))
    assert seeing["rank"].notna().all()
    own = seeing[seeing["method"] == "m0"].set_index("family")["dsc"]
    assert own["overall"] == pytest.approx((own["acquisition"] + own["annotation"]) / 2)


def test_ranks_follow_the_mean_and_methods_that_do_not_differ_share_a_group():
    table = headline(frame(*board(0.100, 0.101, 0.05, 0.0)))
    overall = table[table["family"] == "overall"].set_index("method")
    assert overall["rank"].tolist() == [1, 2, 3, 4]
    assert overall["tie_group"]["m0"] == overall["tie_group"]["m1"] == 1
    assert overall["tie_group"]["m2"] == 2 and overall["tie_group"]["m3"] == 3


def test_pairing_separates_what_the_intervals_alone_do_not():
    table = headline(frame(*board(0.03, 0.0, spread=0.005)))
    overall = table[table["family"] == "overall"].set_index("method")
    assert overall["dsc_low"]["m0"] < overall["dsc_high"]["m1"], "the intervals overlap"
    assert overall["tie_group"].tolist() == [1, 2]


def test_fewer_than_twenty_patients_have_an_interval_and_no_rank():
    rows = frame(*board(0.1, 0.0))
    few = headline(rows[rows["patient"] < "p19"])
    assert few["rank"].isna().all() and few["dsc_low"].notna().all()
    assert few["note"].str.contains("19 patients in family").all()
    assert headline(rows[rows["patient"] < "p20"])["rank"].notna().all()


def test_a_method_that_lacks_a_target_has_no_rank_there_or_overall():
    rows = frame(*board(0.1, 0.0))
    table = headline(rows[~((rows["method"] == "m0") & (rows["family"] == "combined"))])
    assert pd.isna(line(table, method="m0", family="overall")["rank"])
    assert "1 of 2 targets" in line(table, method="m0", family="overall")["note"]
    assert line(table, method="m0", family="acquisition")["rank"] == 1
    assert line(table, method="m1", family="overall")["rank"] == 1


def test_the_order_of_rows_and_methods_changes_nothing():
    rows = pd.concat([world(), frame(*board(0.1, 0.11, 0.0))], ignore_index=True)
    shuffled = rows.iloc[generator(0, "shuffle").permutation(len(rows))]
    for table_of in (summary, headline, severity_curves):
        pd.testing.assert_frame_equal(table_of(rows), table_of(shuffled), rtol=1e-12)


def test_deleting_a_prediction_never_improves_a_method_in_any_table():
    rows = frame(*board(0.1, 0.0))
    changed = set_status(rows, (rows["method"] == "m0") & (rows["patient"] == "p03"), "prediction_missing")
    for where in ({"family": "overall"}, {"family": "acquisition"}):
        assert line(headline(changed), method="m0", **where)["dsc"] < line(headline(rows), method="m0", **where)["dsc"]


def test_a_severity_curve_starts_at_the_source_test():
    levels = [
        rows_of(
            "erm", f"dose:{q}", SOURCE - 0.1 * q, operator="ct_dose", level=q, level_value=100.0 / q, level_unit="%"
        )
        for q in (2, 1)
    ]
    given = rows_of("erm", "dose:7", SOURCE - 0.5, operator="ct_dose", level_value=7.0, level_unit="%")
    rows = frame(rows_of("erm", "site-a", SOURCE, **CONTROL), *levels, given, rows_of("erm", "hilum-in", SOURCE))
    curve = severity_curves(rows)
    assert curve["level"].tolist()[:3] == [0, 1, 2] and pd.isna(curve["level"].iloc[3])
    assert curve["dsc"].tolist() == pytest.approx([SOURCE.mean() - d for d in (0, 0.1, 0.2, 0.5)])
    assert curve["value"].tolist()[1:] == [100.0, 50.0, 7.0] and set(curve["unit"]) == {"%"}
    assert (curve["dsc_low"] < curve["dsc"]).all() and (curve["dsc"] < curve["dsc_high"]).all()
    assert severity_curves(world()).empty


def pooled_world(gains, gaps, *, patients=N, families=None, methods=("tent",), n_seeds=1, spread=0.02, prefix=None):
    """Targets on which an oracle is `gaps` above source-only, and each method its `gains`."""
    groups = [rows_of("erm", "site-a", SOURCE[:patients], **CONTROL)]
    for i, (gain, gap) in enumerate(zip(gains, gaps, strict=True)):
        family = {"family": families[i] if families else "acquisition"} | ({"prefix": f"t{i}-"} if prefix else {})
        base = 0.5 + noise("base", i, scale=spread, shape=(n_seeds, patients)) + PATIENTS[:patients]
        groups.append(rows_of("erm", f"t{i}", base, **family))
        best = base + gap + noise("best", i, scale=spread, shape=(n_seeds, patients))
        groups.append(rows_of("target_oracle", f"t{i}", best, **family))
        for method in methods:
            own = base + gain + noise(method, i, scale=spread, shape=(n_seeds, patients))
            groups.append(rows_of(method, f"t{i}", own, **family))
    return frame(*groups)


def values_of(rows, method, target):
    own = rows[(rows["method"] == method) & (rows["target"] == target)]
    return own.pivot_table(index="seed", columns="patient", values="value").to_numpy()


def test_over_targets_the_recovered_share_is_a_ratio_of_sums_with_an_interval():
    rows = pooled_world((0.10, 0.02), (0.25, 0.05))
    tent = line(recovery(rows), method="tent", family="acquisition")
    base, best, own = (
        sum(values_of(rows, method, t)[0] for t in ("t0", "t1")) for method in ("erm", "target_oracle", "tent")
    )
    assert tent["recovered_percent"] == pytest.approx(100 * (own - base).sum() / (best - base).sum())
    draw = generator(0, "pooled")
    picks = [draw.integers(0, N, N) for _ in range(4000)]
    low, high = np.quantile([100 * (own - base)[p].sum() / (best - base)[p].sum() for p in picks], [0.025, 0.975])
    assert (tent["recovered_percent_low"], tent["recovered_percent_high"]) == pytest.approx((low, high), abs=1.0)
    assert (tent["n_targets"], tent["n_with_gap"], tent["gap_status"]) == (2, 2, "ok")


def test_the_interval_of_a_ratio_of_sums_covers_the_truth_as_often_as_it_says():
    """Two targets on the same patients and seeds; the gain has effects of patient and seed that the gap has not."""
    draw, hits, n = generator(0, "recovery"), 0, 400
    for _ in range(n):
        patient, seed = draw.normal(0, 0.03, 20), draw.normal(0, 0.01, (3, 1))
        gaps = [pd.DataFrame(gap + draw.normal(0, 0.02, (3, 20))) for gap in (0.2, 0.1)]
        gains = [0.4 * mean + patient + seed + draw.normal(0, 0.02, (3, 20)) for mean in (0.2, 0.1)]
        found = ratio_interval([pd.DataFrame(gain) for gain in gains], gaps)
        hits += found.low <= 0.4 <= found.high
    assert 0.91 * n <= hits <= 0.99 * n
    assert ratio_interval(gaps, [0 * gap for gap in gaps]) is None


def test_targets_without_a_gap_stay_out_of_the_pooled_share_and_one_target_is_that_of_the_summary():
    rows = pooled_world((0.10, 0.3), (0.25, 0.0))
    tent, alone = (
        line(recovery(rows), method="tent", family="acquisition"),
        line(summary(rows), method="tent", target="t0"),
    )
    names = ["recovered_percent", "recovered_percent_low", "recovered_percent_high"]
    assert tent[names].tolist() == pytest.approx(alone[names].tolist())
    assert (tent["n_targets"], tent["n_with_gap"]) == (2, 1)
    nowhere = line(recovery(pooled_world((0.1,), (0.0,))), method="tent", family="overall")
    assert nowhere["gap_status"] == "no gap" and pd.isna(nowhere["recovered_percent"])
    without = rows[rows["method"] != "target_oracle"]
    assert line(recovery(without), method="tent", family="overall")["gap_status"] == "no oracle"


def test_the_pooled_share_is_that_of_the_leaderboard():
    rows = make_rows(patients=20, methods=("erm", "tent_bn", "fewshot_ft_5", "target_oracle"))
    pooled = recovery(rows).set_index(["method", "family"])["recovered_percent"]
    table = leaderboard(rows)
    for row in table[table["scope"] != "target"].itertuples():
        if row.method in ("tent_bn", "fewshot_ft_5"):
            family = "overall" if row.scope == "overall" else row.family
            assert pooled[row.method, family] == pytest.approx(row.recovered_percent), family


def test_negative_transfer_is_the_share_of_targets_with_a_loss_gap_or_not():
    found = line(
        recovery(pooled_world((-0.05, 0.1, -0.1, 0.02), (0.2, 0.2, 0.0, 0.0))), method="tent", family="overall"
    )
    assert (found["n_worse"], found["n_compared"], found["n_with_gap"]) == (2, 4, 2)
    assert found["negative_transfer_percent"] == pytest.approx(50)
    assert found["recovered_percent"] == pytest.approx(100 * 0.05 / 0.4, abs=6)


def test_annotation_targets_enter_the_pooled_share_only_with_target_labels():
    rows = pooled_world((0.1, 0.0), (0.2, 0.2), families=("acquisition", "annotation"))
    blind = recovery(rows).set_index(["method", "family"])["recovered_percent"]
    assert blind["tent", "overall"] == blind["tent", "acquisition"]
    seeing = recovery(rows.assign(track=rows["track"].replace("tta", "fewshot")))
    seeing = seeing.set_index(["method", "family"])["recovered_percent"]
    assert seeing["tent", "overall"] == pytest.approx(seeing["tent", "acquisition"] / 2, abs=3)
    assert set(recovery(rows)["method"]) == {"tent"}


def test_the_pooled_share_is_audited_above_the_oracle_with_holm_over_methods():
    assert line(recovery(pooled_world((0.3, 0.3), (0.2, 0.2))), family="overall")["audit"]
    assert not line(recovery(pooled_world((0.21, 0.21), (0.2, 0.2))), family="overall")["audit"], "105 % is within"
    lucky = pooled_world((0.23,), (0.2,), spread=0.05)
    assert not line(recovery(lucky), family="overall")["audit"], "above, but not significantly"
    names = ("tent", "tent-twin")
    alone = [
        line(recovery(pooled_world((0.21,), (0.2,), methods=(name,))), family="overall")["p_above_oracle"]
        for name in names
    ]
    both = recovery(pooled_world((0.21,), (0.2,), methods=names))
    together = [line(both, family="overall", method=name)["p_above_oracle"] for name in names]
    assert together == pytest.approx(list(holm(alone))) and together != pytest.approx(alone)


def test_a_failed_prediction_never_recovers_more_and_order_does_not_matter():
    rows = make_rows(patients=20, methods=("erm", "tent_bn", "target_oracle"))
    table = recovery(rows)
    pd.testing.assert_frame_equal(recovery(rows.sample(frac=1, random_state=3)), table)
    worse = recovery(fail(rows, "tent_bn", ["patient-02"]))
    assert (worse["recovered_percent"] < table["recovered_percent"]).all()
    assert (worse["n_worse"] >= table["n_worse"]).all()


def test_harm_is_claimed_only_in_excess_of_what_another_seed_does():
    base = np.full((3, N), 0.5)
    base[1, : N // 2] -= 0.05  # another seed alone loses half of the patients
    own = base.copy()
    own[:, N // 2 : N // 2 + 2] -= 0.05
    found = line(summary(frame(rows_of("erm", "dose", base), rows_of("tent", "dose", own))), method="tent")
    assert found["harmed_percent"] == pytest.approx(100 * 2 / N)
    assert found["harm_excess_percent"] == pytest.approx(found["harmed_percent"] - found["harmed_by_reseeding_percent"])
    assert found["harm_excess_percent"] < 0 and not found["harm_claimed"]
    own -= 0.05
    found = line(summary(frame(rows_of("erm", "dose", base), rows_of("tent", "dose", own))), method="tent")
    assert found["harm_excess_percent_low"] > 0 and found["harm_claimed"]
    steady = np.full((3, N), 0.5)
    none = line(summary(frame(rows_of("erm", "dose", steady), rows_of("tent", "dose", steady))), method="tent")
    assert none["harm_excess_percent"] == 0 and not none["harm_claimed"]


def test_with_one_seed_harm_is_not_claimed_and_one_patient_in_many_is_not_enough():
    base = np.full((1, N), 0.5)
    own = base - 0.1
    found = line(summary(frame(rows_of("erm", "dose", base), rows_of("tent", "dose", own))), method="tent")
    assert found["harmed_percent"] == 100 and found["harm_claimed"] is None and pd.isna(found["harm_excess_percent"])
    two = np.full((2, N), 0.5)
    one = two.copy()
    one[:, 0] -= 0.1
    found = line(summary(frame(rows_of("erm", "dose", two), rows_of("tent", "dose", one))), method="tent")
    assert found["harm_excess_percent"] == pytest.approx(100 / N) and found["harm_excess_percent_low"] < 0
    assert not found["harm_claimed"]
