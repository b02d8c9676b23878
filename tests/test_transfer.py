"""The transfer matrix: every cell with what it is compared with, paired where it can be."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import fail, make_rows
from test_robustness import CONTROL, PATIENTS, SOURCE, N, frame, line, noise, rows_of, world

from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.sections import transfer as section
from shiftbench.rng import generator
from shiftbench.robustness import summary
from shiftbench.robustness.tables.transfer import transfer
from shiftbench.stats import paired_difference


def test_every_cell_is_the_mean_over_seeds_of_the_mean_over_patients_and_the_diagonal_the_source_test():
    two = np.stack([PATIENTS + 0.5, PATIENTS + 0.6])
    rows = frame(rows_of("erm", "site-a", two + 0.3, **CONTROL), rows_of("erm", "dose", two))
    table = transfer(rows)
    assert line(table, target="site-a")["dsc"] == pytest.approx(0.85 + PATIENTS.mean())
    cell = line(table, target="dose")
    assert cell["dsc"] == pytest.approx(0.55 + PATIENTS.mean()) and cell["n_seeds"] == 2
    assert cell["dsc_low"] < cell["dsc"] < cell["dsc_high"] and not cell["conditional"]
    assert cell["drop"] == pytest.approx(0.3) and cell["drop_paired"]


def test_drops_are_those_of_the_summary_and_the_gap_to_the_oracle_is_paired_on_the_target():
    rows = world()
    table, known = transfer(rows), summary(rows)
    for method in ("erm", "tent", "target_oracle"):
        own, other = (line(t, method=method, target="dose") for t in (table, known))
        names = ["dsc", "dsc_low", "drop", "drop_low", "drop_high"]
        assert own[names].tolist() == other[names].tolist()
    value = {m: rows[(rows["method"] == m) & (rows["target"] == "dose")]["value"].to_numpy() for m in rows["method"]}
    expected = paired_difference(value["target_oracle"], value["tent"])
    tent = line(table, method="tent")
    assert (tent["oracle_gap"], tent["oracle_gap_low"]) == pytest.approx((expected.mean, expected.low))
    assert pd.isna(line(table, method="target_oracle")["oracle_gap"])


def bootstrapped(ratio, paired, draws=4000):
    """Percentiles of a ratio of two means over resampled patients."""
    draw = generator(0, "transfer")
    picks = [(draw.integers(0, N, N), draw.integers(0, N, N)) for _ in range(draws)]
    return np.quantile([ratio(one, one if paired else other) for one, other in picks], [0.025, 0.975])


@pytest.mark.parametrize("paired", [True, False])
def test_the_relative_drop_is_linearised_on_the_same_patients_and_on_others(paired):
    clean = 0.8 + noise("clean", scale=0.1)
    own = 0.75 * clean + noise("own", scale=0.03)  # what is hard here is hard there
    changes = {} if paired else {"prefix": "q", "family": "real"}
    table = transfer(frame(rows_of("erm", "site-a", clean, **CONTROL), rows_of("erm", "dose", own, **changes)))
    cell = line(table, target="dose")
    low, high = bootstrapped(lambda a, b: 100 * (1 - own[b].mean() / clean[a].mean()), paired)
    assert cell["drop_paired"] == paired
    assert cell["relative_drop_percent"] == pytest.approx(100 * (1 - own.mean() / clean.mean()))
    limits = (cell["relative_drop_percent_low"], cell["relative_drop_percent_high"])
    assert limits == pytest.approx((low, high), abs=1.0)
    assert (high - low < 4) == paired


def test_there_is_no_relative_drop_from_next_to_nothing():
    def cell(level):
        clean = np.full(N, level)
        return line(transfer(frame(rows_of("erm", "site-a", clean), rows_of("erm", "dose", clean / 2))), target="dose")

    assert pd.isna(cell(0.049)["relative_drop_percent"]) and cell(0.049)["drop"] == pytest.approx(0.0245)
    assert cell(0.051)["relative_drop_percent"] == pytest.approx(50)


def test_scenarios_with_different_sources_are_rows_of_one_matrix():
    there = frame(rows_of("erm", "site-a", SOURCE), rows_of("erm", "site-b", SOURCE - 0.1, family="real"))
    back = frame(
        rows_of("erm", "site-b", SOURCE - 0.05, source="site-b", scenario="back"),
        rows_of("erm", "site-a", SOURCE - 0.3, source="site-b", scenario="back", family="real"),
    )
    table = transfer(pd.concat([there, back], ignore_index=True))
    cells = table.set_index(["source", "target"])
    assert cells["drop"].to_dict() == pytest.approx(
        {("site-a", "site-a"): 0, ("site-a", "site-b"): 0.1, ("site-b", "site-b"): 0, ("site-b", "site-a"): 0.25}
    )


def test_a_population_that_is_selected_anew_is_a_group_of_its_own():
    """The same patients with the same predictions have the same scores: paired, the drop would always be zero."""
    hard = SOURCE[:8]
    rows = frame(
        rows_of("erm", "site-a", SOURCE, **CONTROL),
        rows_of("erm", "older", hard, family="population", operator="reselect", level=3.0),
    )
    for table in (transfer(rows), summary(rows)):
        cell = line(table, target="older")
        assert cell["drop"] == pytest.approx(SOURCE.mean() - hard.mean()) and not cell["drop_paired"]
        assert cell["drop_low"] < cell["drop"] < cell["drop_high"]


def test_the_figure_draws_the_numbers_of_the_table():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "target_oracle"))
    keys = ["scenario", "target", "method"]
    drawn = leaderboard(rows)
    drawn = drawn[drawn["scope"] == "target"].set_index(keys).sort_index()
    table = transfer(rows).set_index(keys).sort_index()
    pd.testing.assert_frame_equal(drawn[["dsc", "drop"]], table[["dsc", "drop"]], check_dtype=False)


def test_the_order_of_rows_changes_nothing_and_a_failed_prediction_never_improves_a_cell():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "target_oracle"))
    table = transfer(rows)
    shuffled = rows.sample(frac=1, random_state=generator(0, "order").integers(2**31))
    pd.testing.assert_frame_equal(transfer(shuffled), table)
    worse = transfer(fail(rows, "tent_bn", ["patient-02"]))
    hit = (table["method"] == "tent_bn") & (table["target"] != table["source"])
    assert (worse["dsc"][hit] < table["dsc"][hit]).all() and (worse["drop"][hit] > table["drop"][hit]).all()
    with_oracle = hit & table["oracle_gap"].notna()
    assert (worse["oracle_gap"][with_oracle] > table["oracle_gap"][with_oracle]).all()


def test_the_page_shows_what_is_transferred_and_the_file_all():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "target_oracle"))
    made = section.section(rows)
    assert made.file == "transfer.csv" and len(made.table) == len(transfer(rows))
    n_targets = len(rows.loc[rows["target"] != rows["source"], ["scenario", "target"]].drop_duplicates())
    assert len(made.body) == n_targets and all(len(cells) == len(made.head) for cells in made.body)
