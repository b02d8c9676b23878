"""The leaderboard as a table, as Markdown, as CSV and on a terminal."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic_rows import fail, make_rows, not_applicable

from shiftbench.errors import OutputError
from shiftbench.report.leaderboard import COLUMNS, leaderboard, print_leaderboard, read_csv, write_csv, write_markdown
from shiftbench.report.tables import markdown

METHODS = ("erm", "pred_bn", "tent_bn", "alpha_bn", "fewshot_ft_5", "target_oracle")
NUMBERS = ["dsc", "dsc_low", "dsc_high", "drop", "recovered_percent", "harmed_percent", "nsd"]


@pytest.fixture(scope="module")
def rows():
    return make_rows(methods=METHODS)


@pytest.fixture(scope="module")
def table(rows):
    return leaderboard(rows)


@pytest.fixture(scope="module")
def without_alpha(rows):
    return leaderboard(not_applicable(rows, "alpha_bn", "no batch normalisation to adapt"))


def overall(table, method):
    return table[(table["scope"] == "overall") & (table["method"] == method)].iloc[0]


def test_every_method_has_one_overall_row_and_one_row_per_family_and_target(rows, table):
    counts = table.groupby(["method", "scope"]).size().unstack()
    places = rows.groupby("method")[["scenario", "target"]].apply(lambda own: len(own.drop_duplicates()))
    assert (counts["overall"] == 1).all()
    assert (counts["family"] == 4).all()
    assert counts["target"].equals(places.rename(None).astype(counts["target"].dtype).rename("target"))


def test_order_of_rows_and_methods_changes_no_digit(rows, table):
    shuffled = leaderboard(rows.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(shuffled, table, check_exact=True)


def test_overall_weighs_families_equally_and_leaves_annotation_out_without_target_labels(table):
    for method, families in (
        ("tent_bn", ["acquisition", "population", "combined"]),
        ("fewshot_ft_5", ["acquisition", "population", "combined", "annotation"]),
    ):
        own = table[(table["method"] == method) & (table["scope"] == "family")].set_index("family")["dsc"]
        assert overall(table, method)["dsc"] == pytest.approx(own[families].mean(), abs=1e-12)


def test_drop_of_a_family_is_the_mean_drop_of_its_targets(table):
    own = table[(table["method"] == "erm") & (table["family"] == "acquisition")]
    family = own[own["scope"] == "family"].iloc[0]
    assert family["drop"] == pytest.approx(own[own["scope"] == "target"]["drop"].mean(), abs=1e-12)
    assert family["n_targets"] == 6
    families = table[(table["method"] == "erm") & (table["scope"] == "family")].set_index("family")["drop"]
    pooled = families[["acquisition", "population", "combined"]].mean()
    assert overall(table, "erm")["drop"] == pytest.approx(pooled, abs=1e-12)


def test_recovered_share_is_a_ratio_of_sums_over_targets_with_a_gap(rows, table):
    dsc = rows[(rows["metric"] == "dsc") & (rows["family"] == "acquisition")]
    mean = dsc.groupby(["method", "target"])["value"].mean().unstack("method")
    targets = table[(table["method"] == "tent_bn") & (table["scope"] == "target") & (table["gap_status"] == "ok")]
    mean = mean.loc[targets.loc[targets["family"] == "acquisition", "target"]]
    assert 0 < len(mean) < 6
    share = (mean["tent_bn"] - mean["erm"]).sum() / (mean["target_oracle"] - mean["erm"]).sum()
    family = table[(table["method"] == "tent_bn") & (table["scope"] == "family") & (table["family"] == "acquisition")]
    assert family["recovered_percent"].item() == pytest.approx(100 * share)


def test_a_method_that_is_never_applicable_is_not_ranked_and_says_why(without_alpha):
    alpha = without_alpha[without_alpha["method"] == "alpha_bn"]
    assert len(alpha) == 1
    assert alpha["rank"].isna().all() and alpha["dsc"].isna().all()
    assert alpha["note"].item() == "not applicable: no batch normalisation to adapt"
    ranked = without_alpha[(without_alpha["scope"] == "overall") & (without_alpha["track"] == "tta")]["rank"].dropna()
    assert sorted(ranked) == [1, 2]


@pytest.mark.parametrize("methods", [("erm", "tent_bn", "target_oracle"), METHODS])
def test_a_method_that_skips_a_target_is_not_ranked_even_if_it_is_alone_on_its_board(rows, methods):
    chosen = rows[rows["method"].isin(methods)].copy()
    hit = (chosen["method"] == "tent_bn") & (chosen["target"] == "new-site")
    chosen.loc[hit, ["value", "status", "detail"]] = [None, "not_applicable", "one adapt case only"]
    made = leaderboard(chosen)
    line = overall(made, "tent_bn")
    assert pd.isna(line["rank"]) and pd.isna(line["tie_group"])
    assert line["note"] == "not ranked: not applicable or not scored on 1 of 8 targets (one adapt case only)"
    acquisition = made[(made["method"] == "tent_bn") & (made["family"] == "acquisition") & (made["scope"] == "family")]
    assert acquisition["rank"].notna().all()
    others = made[(made["scope"] == "overall") & (made["track"] == "tta")]["rank"].dropna()
    assert sorted(others) == list(range(1, len(others) + 1))


def test_failures_lower_the_mean_and_are_counted_once_per_prediction(rows, table):
    failed = leaderboard(fail(rows, "tent_bn", ["patient-00", "patient-01"]))
    before, after = overall(table, "tent_bn"), overall(failed, "tent_bn")
    assert after["dsc"] == pytest.approx(before["dsc"] * 22 / 24, abs=0.02) and after["dsc"] < before["dsc"]
    assert (before["failed_cases"], after["failed_cases"]) == (0, 2 * 8)
    assert after["n_cases"] == before["n_cases"] == 24 * 8
    assert overall(failed, "pred_bn")["dsc"] == overall(table, "pred_bn")["dsc"]


def without_tumour(rows):
    """`rows` in which three patients have no tumour, and tent_bn draws one, draws none, and fails."""
    rows = rows.copy()
    tumour, tent = rows["structure"] == "tumour", rows["method"] == "tent_bn"
    negative = tumour & rows["patient"].isin(["patient-00", "patient-01", "patient-02"])
    rows.loc[negative, ["value", "status"]] = [None, "both_empty"]
    rows.loc[negative & tent & (rows["patient"] == "patient-00"), ["value", "status"]] = [0.0, "fp_on_negative"]
    rows = fail(rows, "tent_bn", ["patient-02"])
    failed = negative & (rows["status"] == "failed")
    rows.loc[failed, "detail"] = "reference_empty; " + rows.loc[failed, "detail"]
    return rows


@pytest.mark.parametrize("told", [True, False])
def test_structures_that_the_reference_lacks_are_counted_apart_with_failures_as_false_positives(rows, told):
    """A failure says that its reference is empty, or else the other methods' rows of that case do."""
    rows = without_tumour(rows)
    made = leaderboard(rows if told else rows.assign(detail=""))
    line = overall(made, "tent_bn")
    assert (line["negative_cases"], line["false_positives"]) == (3 * 8, 2 * 8)
    assert (overall(made, "pred_bn")["negative_cases"], overall(made, "pred_bn")["false_positives"]) == (3 * 8, 0)
    own = made[(made["method"] == "tent_bn") & (made["scope"] == "target")]
    assert (own["negative_cases"] == 3).all()
    assert (own["false_positives"] == np.where(own["target"] == own["source"], 1, 2)).all()
    section = markdown(made).split("## Test-time adaptation")[1].split("### Each target")[0]
    assert "| FP on negatives | s / case |" in section
    assert "| 16 of 24 | 0.40 | 8 of 192 |" in section and "| 0 of 24 | 0.40 | 0 of 192 |" in section


def test_every_draw_and_seed_is_a_prediction_of_its_own_among_the_negatives():
    rows = without_tumour(make_rows(methods=("erm", "tent_bn", "target_oracle"), seeds=(0, 1)))
    again = rows[rows["method"] == "tent_bn"].assign(draw=1)
    line = overall(leaderboard(pd.concat([rows, again])), "tent_bn")
    assert (line["negative_cases"], line["false_positives"]) == (4 * 3 * 8, 4 * 2 * 8)


def test_where_every_reference_shows_every_structure_there_are_no_negatives(table):
    assert (overall(table, "tent_bn")["negative_cases"], overall(table, "tent_bn")["false_positives"]) == (0, 0)
    assert "| – | 0.40 | 0 of 192 |" in markdown(table)
    assert " FP " not in printed(table, 118).split("DSC with its")[0]


def test_fewer_than_twenty_patients_have_intervals_but_no_rank():
    made = leaderboard(make_rows(methods=("erm", "tent_bn", "target_oracle"), patients=12))
    line = overall(made, "tent_bn")
    assert pd.isna(line["rank"]) and np.isfinite(line["dsc_low"])
    assert "12 patients" in line["note"] and "fewer than 20" in line["note"]
    assert "12 patients in family acquisition, fewer than 20" in markdown(made)


def test_an_empty_table_is_refused(rows):
    with pytest.raises(OutputError, match="no rows"):
        leaderboard(rows.iloc[:0])


def test_controls_alone_give_a_board_without_ranks(rows):
    made = leaderboard(rows[rows["scenario"] == "control"])
    assert made["rank"].isna().all()
    assert "no targets of a family that is ranked" in markdown(made)


def test_annotation_targets_alone_rank_only_methods_with_target_labels(rows):
    made = leaderboard(rows[rows["scenario"] == "hilum"])
    assert pd.isna(overall(made, "tent_bn")["rank"]) and overall(made, "fewshot_ft_5")["rank"] == 1
    text = markdown(made)
    assert "`tent_bn`: there are annotation targets alone, and it has no target labels" in text
    assert "hilum: hilum-in" in text


def test_markdown_has_a_section_per_board_and_says_what_its_numbers_mean(without_alpha):
    text = markdown(without_alpha, title="Leaderboard of quick")
    assert text.startswith("# Leaderboard of quick\n")
    for words in (
        "## Test-time adaptation · unet_bn · quick",
        "## Few-shot · unet_bn · quick",
        "*conditional on this trained model*",
        "are over patients and conditional on this trained model.",
        "24 patients, 1 seed",
        "protocol agreement",
        "not a bound",
        "score 0 and stay in the mean",
        "do not rank methods without target\n  labels",
        "- `alpha_bn`: not applicable: no batch normalisation to adapt",
        "acquisition 6, population 1, combined 1, annotation 1",
        "| 1/2 ",
    ):
        assert words in text
    section = text.split("## Test-time adaptation")[1].split("\n## ")[0]
    scores = section.split("### Each target")[0]
    assert "`alpha_bn` |" not in scores and "| ref. | *`erm`* |" in scores and "| ref. | *`target_oracle`* |" in scores
    widths = {line.count(" | ") for line in scores.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_several_seeds_cross_patients_and_show_harm_by_reseeding():
    made = leaderboard(make_rows(methods=("erm", "tent_bn", "target_oracle"), seeds=(0, 1, 2)))
    text = markdown(made)
    assert "patients crossed with seeds" in text.split("## Domain generalisation")[1]
    assert "conditional on this trained model." not in text.split("## Domain generalisation")[1]
    assert overall(made, "tent_bn")["harmed_by_reseeding_percent"] >= 0
    assert "% (" in text


def test_csv_keeps_every_digit_and_is_printed_alike(table, tmp_path):
    again = read_csv(write_csv(table, tmp_path / "new" / "leaderboard.csv"))
    assert list(again.columns) == COLUMNS
    for name in NUMBERS:
        np.testing.assert_array_equal(again[name].to_numpy(float), table[name].to_numpy(float))
    assert markdown(again) == markdown(table)
    assert printed(again, 100) == printed(table, 100)


def test_a_file_that_is_no_leaderboard_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(OutputError, match="no leaderboard"):
        read_csv(tmp_path / "leaderboard.csv")
    (tmp_path / "leaderboard.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match="columns are not those"):
        read_csv(tmp_path / "leaderboard.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_markdown(pd.DataFrame(columns=COLUMNS), tmp_path / "file" / "leaderboard.md")


def printed(table, width):
    console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))
    print_leaderboard(console, table)
    return console.export_text()


def test_the_printed_board_fits_a_hundred_columns_and_loses_no_column(table):
    text = printed(table, 100)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    heads = [line for line in text.splitlines() if line.startswith("rank")]
    assert heads and all(line.split()[-1] == "fail" and "NSD" in line and "recov." in line for line in heads)
    line = overall(table, "tent_bn")
    assert f"{line['dsc']:.3f} [{line['dsc_low']:.3f},{line['dsc_high']:.3f}]" in text


def test_the_printed_board_with_five_families_and_negatives_fits_the_stored_text(rows):
    real = rows[rows["scenario"] == "new-site"].assign(scenario="other-site")
    real = real.assign(family=real["family"].replace("combined", "real"))
    made = leaderboard(without_tumour(pd.concat([rows, real]))).assign(audit=True)
    made["failed_cases"] += 1000
    text = printed(made, 118)
    assert max(map(len, text.splitlines())) <= 118 and "…" not in text
    heads = [line.split() for line in text.splitlines() if line.startswith("rank")]
    assert heads and all({"acq.", "pop.", "comb.", "real", "ann.", "FP", "fail"} <= set(line) for line in heads)
    assert " 67% " in text and "(audit)" in text


def test_the_oracle_is_said_to_be_no_upper_bound(table):
    for text in (markdown(table), printed(table, 118)):
        assert "trained from scratch on the target's adapt patients alone" in " ".join(text.split())
        assert "with few of them it is no upper bound" in " ".join(text.split())


def test_reports_do_not_import_torch():
    code = (
        "import sys; import shiftbench.report.leaderboard, shiftbench.report.figures, shiftbench.report.sheet;"
        "heavy = {'torch', 'monai', 'torchio', 'matplotlib.pyplot'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    light = "import sys; import shiftbench.report.leaderboard; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], check=True)


@pytest.fixture(scope="module")
def close():
    """Three adapters: two of them alike to the third digit, with scores of three seeds."""
    rows = make_rows(methods=("erm", "pred_bn", "tent_bn", "target_oracle"), seeds=(0, 1, 2))
    twin = rows[rows["method"] == "tent_bn"].assign(method="twin_bn")
    return leaderboard(pd.concat([rows, twin.assign(value=twin["value"] - 1e-4)], ignore_index=True))


def test_a_rank_shows_its_interval_its_probability_and_who_is_practically_tied(close):
    text = markdown(close)
    first = next(line for line in text.splitlines() if line.startswith("| 1/3 A"))
    second = next(line for line in text.splitlines() if line.startswith("| 2/3"))
    assert "| 1/3 A [1-2] | `tent_bn` | " in first and "| 2/3 B [2-3] ≈ | `twin_bn` | 0 % |" in second
    assert "≈" not in first, "the first is not tied with itself"
    assert "P(rank 1)" in text and "practically tied with the\n  first" in text
    line = overall(close, "twin_bn")
    assert (line["rank_low"], line["rank_high"], line["p_rank_1"], line["tied_with_leader"]) == (2, 3, 0.0, True)
    ranked = close[close["rank"].notna()]
    sums = ranked.groupby(["track", "scope", "family"], dropna=False)["p_rank_1"].sum()
    np.testing.assert_allclose(sums, 1)
    assert (ranked["rank_low"] <= ranked["rank"]).all() and (ranked["rank"] <= ranked["rank_high"]).all()
    assert (
        close.loc[close["rank"].isna(), ["rank_low", "rank_high", "p_rank_1", "tied_with_leader"]].isna().all(axis=None)
    )


def test_the_columns_of_ranks_survive_the_file(close, tmp_path):
    again = read_csv(write_csv(close, tmp_path / "leaderboard.csv"))
    assert markdown(again) == markdown(close) and printed(again, 118) == printed(close, 118)
    assert again["rank_low"].dtype == "Int64" and again["p_rank_1"].equals(close["p_rank_1"].astype(float))


def test_the_terminal_shows_the_ranks_that_are_possible_in_no_more_room(rows, table, close):
    assert any(line.startswith("1 A") for line in printed(close, 118).splitlines())
    wide = close.assign(rank_low=1, rank_high=close["n_ranked"])
    lines = [line for line in printed(wide, 118).splitlines() if line.startswith("1-3 ")]
    assert len(lines) == 3 and max(map(len, lines)) <= 100


def test_rows_of_other_metrics_change_nothing_and_give_no_reasons(rows):
    rows = rows[rows["method"].isin(("erm", "tent_bn", "target_oracle"))].copy()
    hit = (rows["method"] == "tent_bn") & (rows["target"] == "new-site")
    rows.loc[hit, ["value", "status", "detail"]] = [None, "not_applicable", "one adapt case only"]
    other = rows[rows["metric"] == "dsc"].assign(metric="brier", definition="roi", value=None, status="not_applicable")
    made = leaderboard(pd.concat([rows, other.assign(detail="no probabilities")], ignore_index=True))
    pd.testing.assert_frame_equal(made, leaderboard(rows), check_exact=True)
    assert overall(made, "tent_bn")["note"].endswith("(one adapt case only)")


def test_one_seed_says_that_no_method_beats_another_in_general(table, close):
    words = "no method is said to beat another in general."
    assert words in markdown(table).split("## Test-time")[1] and words in printed(table, 118).replace("\n", "")
    assert words not in markdown(close).split("## Test-time")[1]
