"""Attribution: contrasts against their definitions, exact sums, and the patients that they rest on."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_rows import _row

from shiftbench.report.sections import sections
from shiftbench.robustness.tables.attribution import _cells, attribution, contrast_matrix, factorials
from shiftbench.stats import unpaired_difference
from shiftbench.types import Row, Status

CAUSES = {"dose:3": "acquisition", "hilum-in": "annotation", "load": "population"}


def rows_of(score, causes=tuple(CAUSES), *, patients=6, seeds=(0, 1), methods=("erm",), structures=("liver",)):
    """DSC rows of every cell; `score` is a function of (cell, patient number, seed)."""
    made: list[Row] = []
    for cell in _cells(causes):
        family = CAUSES[cell[0]] if len(cell) == 1 else "combined" if cell else "control"
        for method in methods:
            for seed in seeds:
                for i in range(patients):
                    for structure in structures:
                        who = {"case": f"c{i}", "patient": f"p{i}", "structure": structure, "seed": seed}
                        what = {"scenario": "cross", "target": "+".join(cell) or "site-a", "family": family}
                        shift = dict.fromkeys(("operator", "level", "level_value", "level_unit", "k"))
                        run = {"method": method, "track": "dg", "backbone": "unet_bn"}
                        value = score(frozenset(cell), i, seed)
                        made.append(_row(**who, **what, **shift, **run, metric="dsc", value=value))
    return pd.DataFrame(made)


def value_of(cells):
    """Scores from a table of cell means, the same for every patient but for an offset that no contrast sees."""
    return lambda cell, i, seed: cells[cell] + 0.01 * i + 0.001 * seed


def found(table, kind, structure="all"):
    chosen = table[(table["kind"] == kind) & (table["structure"] == structure)]
    return dict(zip(chosen["causes"], chosen["drop"], strict=True))


scores = st.lists(st.floats(0, 0.9), min_size=8, max_size=8)


@settings(max_examples=40, deadline=None)
@given(scores)
def test_effects_and_interactions_and_shapley_values_add_up_to_the_total_drop(values):
    means = np.array(values)
    weights = contrast_matrix(tuple(CAUSES))
    drop = {key: float(w @ means) for key, w in weights.items()}
    total = drop["total", tuple(CAUSES)]
    assert total == pytest.approx(means[0] - means[-1], abs=1e-12)
    for kinds in (("effect", "interaction"), ("shapley",)):
        assert sum(v for (kind, _), v in drop.items() if kind in kinds) == pytest.approx(total, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(scores)
def test_shapley_is_the_marginal_drop_averaged_over_all_orders(values):
    cells = {frozenset(cell): value for cell, value in zip(_cells(tuple(CAUSES)), values, strict=True)}
    weights = contrast_matrix(tuple(CAUSES))
    for cause in CAUSES:
        marginal = [
            cells[frozenset(order[: order.index(cause)])] - cells[frozenset(order[: order.index(cause) + 1])]
            for order in permutations(CAUSES)
        ]
        assert float(weights["shapley", (cause,)] @ np.array(values)) == pytest.approx(np.mean(marginal), abs=1e-12)


def test_the_two_by_two_interaction_is_what_the_sum_of_the_effects_leaves():
    cells = {frozenset(c): v for c, v in zip(_cells(tuple(CAUSES)[:2]), (0.9, 0.8, 0.7, 0.5), strict=True)}
    table = attribution(rows_of(value_of(cells), tuple(CAUSES)[:2]))
    assert found(table, "effect") == pytest.approx({"dose:3": 0.1, "hilum-in": 0.2})
    assert found(table, "interaction") == pytest.approx({"dose:3+hilum-in": 0.1})
    assert found(table, "shapley") == pytest.approx({"dose:3": 0.15, "hilum-in": 0.25})
    assert found(table, "total") == pytest.approx({"dose:3+hilum-in": 0.4})
    shares = table[(table["kind"] == "shapley") & (table["structure"] == "all")].set_index("causes")["share_percent"]
    assert shares.to_dict() == pytest.approx({"dose:3": 37.5, "hilum-in": 62.5})


def test_without_interactions_shapley_values_are_the_effects():
    loss = {"dose:3": 0.1, "hilum-in": 0.05, "load": 0.2}
    table = attribution(rows_of(lambda cell, i, seed: 0.9 - sum(loss[c] for c in cell) - 0.01 * i))
    assert found(table, "shapley") == pytest.approx(loss) and found(table, "effect") == pytest.approx(loss)
    assert all(abs(v) < 1e-12 for v in found(table, "interaction").values())
    assert len(table[table["structure"] == "all"]) == 3 + 4 + 3 + 1


def test_patients_are_paired_so_that_their_spread_widens_no_contrast():
    cells = {frozenset(cell): 0.9 - 0.1 * len(cell) for cell in _cells(tuple(CAUSES))}
    table = attribution(rows_of(lambda cell, i, seed: cells[cell] - 0.1 * i))
    whole = table[table["kind"] == "total"].iloc[0]
    assert whole["drop_low"] == pytest.approx(0.3) and whole["drop_high"] == pytest.approx(0.3)
    spread = attribution(rows_of(lambda cell, i, seed: cells[cell] - 0.02 * i * len(cell)))
    assert spread[spread["kind"] == "total"].iloc[0]["drop_high"] > spread[spread["kind"] == "total"].iloc[0]["drop"]
    assert whole["interval"] == "t" and whole["n_patients"] == 6 and whole["n_seeds"] == 2


def test_with_five_seeds_the_interval_is_that_of_the_bootstrap_and_of_one_patient_there_is_none():
    cells = {frozenset(cell): 0.9 - 0.1 * len(cell) for cell in _cells(tuple(CAUSES))}

    def score(cell, i, seed):
        return cells[cell] - 0.02 * i * len(cell) + 0.01 * seed * len(cell)

    five = attribution(rows_of(score, seeds=range(5)))
    whole = five[five["kind"] == "total"].iloc[0]
    assert whole["interval"] == "bootstrap" and whole["drop_low"] < whole["drop"] < whole["drop_high"]
    one = attribution(rows_of(score, patients=1))
    assert one["drop_low"].isna().all() and one["drop"].notna().all() and one["share_percent"].isna().all()


def test_a_case_that_one_cell_cannot_score_leaves_them_all():
    cells = {frozenset(cell): 0.9 - 0.1 * len(cell) for cell in _cells(tuple(CAUSES))}
    rows = rows_of(value_of(cells))
    gone = (rows["target"] == "load") & (rows["patient"] == "p0")
    rows.loc[gone, "status"], rows.loc[gone, "value"] = str(Status.BOTH_EMPTY), None
    out = (rows["target"] == "dose:3") & (rows["patient"] == "p1")
    rows.loc[out, "status"], rows.loc[out, "value"] = str(Status.NOT_APPLICABLE), None
    table = attribution(rows)
    assert set(table["n_patients"]) == {4}
    assert found(table, "total")["dose:3+hilum-in+load"] == pytest.approx(0.3)


def test_a_structure_that_one_cell_lacks_is_compared_in_none():
    cells = {frozenset(cell): 0.9 - 0.1 * len(cell) for cell in _cells(tuple(CAUSES))}
    rows = rows_of(value_of(cells), structures=("liver", "tumour"))
    tumour = rows["structure"] == "tumour"
    rows.loc[tumour, "value"] -= 0.1
    gone = tumour & (rows["target"] == "load")
    rows.loc[gone, "status"], rows.loc[gone, "value"] = str(Status.BOTH_EMPTY), None
    table = attribution(rows)
    assert set(table["structure"]) == {"liver", "all"}
    assert found(table, "effect") == pytest.approx(dict.fromkeys(CAUSES, 0.1))


def test_a_failed_prediction_counts_as_zero():
    cells = {frozenset(cell): 0.8 for cell in _cells(tuple(CAUSES))}
    rows = rows_of(lambda cell, i, seed: cells[cell])
    failed = rows["target"] == "load"
    rows.loc[failed, "status"], rows.loc[failed, "value"] = str(Status.FAILED), 0.0
    assert found(attribution(rows), "effect")["load"] == pytest.approx(0.8)


def test_only_complete_factorials_are_attributed():
    cells = {frozenset(cell): 0.9 for cell in _cells(tuple(CAUSES))}
    rows = rows_of(value_of(cells))
    assert factorials(rows) == {"cross": tuple(CAUSES)}
    lacking = rows[rows["target"] != "dose:3+load"]
    assert factorials(lacking)["cross"] == ("dose:3", "hilum-in")
    assert attribution(rows[~rows["target"].str.contains("+", regex=False)]).empty


def test_the_report_shows_the_mean_over_structures_and_the_file_all():
    cells = {frozenset(cell): 0.9 - 0.1 * len(cell) for cell in _cells(tuple(CAUSES))}
    made = sections(rows_of(value_of(cells), structures=("liver", "tumour")))
    (section,) = (each for each in made if each.file == "attribution.csv")
    assert len(section.table) == 3 * len(section.body) == 33
    assert any("Acquisition".lower() in line for line in section.body)


def of_other_patients(rows, cause, *, operator=None):
    """`rows` in which the patients of every cell with this cause are others (or selected ones)."""
    hit = rows["target"].str.split("+").map(lambda names: cause in names)
    if operator is not None:
        alone = rows["target"] == cause
        rows = rows.assign(operator=rows["operator"].astype(object).mask(alone, operator))
        return rows[~hit | rows["patient"].isin(["p0", "p1", "p2", "p3"])]
    return rows.assign(
        patient=rows["patient"].mask(hit, "q" + rows["patient"]), case=rows["case"].mask(hit, "q" + rows["case"])
    )


@pytest.mark.parametrize("operator", [None, "reselect"])
def test_a_cause_that_brings_other_patients_is_a_difference_of_groups_and_shares_no_shapley(operator):
    loss = {"dose:3": 0.1, "hilum-in": 0.05, "load": 0.2}
    rows = rows_of(lambda cell, i, seed: 0.9 - sum(loss[c] for c in cell) - 0.01 * i - 0.001 * seed)
    changed = of_other_patients(rows, "load", operator=operator)
    table = attribution(changed)
    kinds = table[table["structure"] == "all"].groupby("kind")["causes"].agg(set).to_dict()
    same = {"dose:3", "hilum-in"}
    assert kinds.pop("group difference") == {"load", "dose:3+load", "hilum-in+load", "dose:3+hilum-in+load"}
    assert kinds == {"effect": same, "shapley": same, "interaction": {"dose:3+hilum-in"}, "total": {"dose:3+hilum-in"}}
    assert found(table, "shapley") == pytest.approx({"dose:3": 0.1, "hilum-in": 0.05})
    offset = 0.01 * (2.5 - 1.5) if operator else 0.0  # the four that are selected are better by this
    assert found(table, "group difference")["load"] == pytest.approx(0.2 - offset)
    line = table[(table["causes"] == "dose:3+load") & (table["structure"] == "all")].iloc[0]
    source, cell = (
        changed[changed["target"] == name].pivot_table(index="seed", columns="patient", values="value")
        for name in ("site-a", "dose:3+load")
    )
    expected = unpaired_difference(source, cell)
    assert (line["drop"], line["drop_low"], line["drop_high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert line["interval"] == "Welch" and pd.isna(line["share_percent"])
    assert line["drop_high"] - line["drop_low"] > 0.01, "the spread of the patients stays in a difference of groups"


def test_beside_other_patients_one_cause_alone_has_an_effect_and_nothing_to_share():
    causes = ("dose:3", "load")
    rows = rows_of(lambda cell, i, seed: 0.9 - 0.1 * len(cell) - 0.01 * i, causes)
    table = attribution(of_other_patients(rows, "load"))
    assert sorted(table.loc[table["structure"] == "all", "kind"]) == ["effect", "group difference", "group difference"]
    assert found(table, "effect") == pytest.approx({"dose:3": 0.1})
    both = attribution(of_other_patients(of_other_patients(rows, "load"), "dose:3"))
    assert set(both["kind"]) == {"group difference"}


def test_patients_whom_a_level_cannot_reach_are_still_paired():
    rows = rows_of(lambda cell, i, seed: 0.9 - 0.1 * len(cell) - 0.01 * i)
    table = attribution(rows[~((rows["patient"] == "p0") & rows["target"].str.contains("load"))])
    assert set(table["kind"]) == {"effect", "interaction", "shapley", "total"} and set(table["n_patients"]) == {5}
