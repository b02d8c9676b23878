"""Protocol agreement: how alike two label protocols draw the same patients, which no image can tell."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from shiftbench.domains import Part, about, load_reference, not_applicable
from shiftbench.graph import Plan, Unit
from shiftbench.shifts import OPERATORS, LabelPolicy
from shiftbench.shifts.effects import protocol_effects
from shiftbench.spec import Step
from shiftbench.stats import mean_interval
from shiftbench.store import Store
from shiftbench.types import Family

ALL = "all"  # the mean over the structures of a case
EFFECTS = ("volume_change_percent", "shift_mean_mm", "shift_p95_mm")
COLUMNS = ["scenario", "target", "structure", "agreement", "low", "high", "n_patients", *EFFECTS]
FAMILIES = (Family.ANNOTATION, Family.COMBINED)


def protocol_agreement(graph: Plan, store: Store) -> pd.DataFrame:
    """DSC of the source's protocol against the target's on the test cases of each target with another protocol.

    That is the score of a perfect source model: one that draws what the source's annotators would have drawn. It is
    averaged as scores are, over the structures that the target's reference holds, then over cases, then over patients;
    a structure that the source's protocol leaves out altogether is 0. It is no bound, since the errors of a model may
    happen to suit the other protocol. Targets whose patients are others than the source's, or are moved by a warp, are
    left out, and so are cases that could not be acquired.

    Args:
        graph: of a run whose references are in the store.
        store: of that run.

    Returns:
        One row per scenario, target and structure, and one for the mean over structures ("all"): the mean over
        `n_patients` patients with its 95 % limits (empty for one patient); and, of the structures, the mean change of
        volume against the source's protocol, and mean and 95th percentile of the distance of the two surfaces (in
        pixels where an image has no spacing), over the patients in whom both protocols draw it.
    """
    sources = {unit.row["scenario"]: _test(unit) for unit in graph.units if unit.row["target"] == unit.row["source"]}
    targets = {
        (unit.row["scenario"], unit.row["target"]): unit for unit in graph.units if unit.row["family"] in FAMILIES
    }
    rows = []
    for (scenario, target), unit in targets.items():
        own, other = sources[scenario], _test(unit)
        moves = any(OPERATORS[step.operator].policy is LabelPolicy.CO_WARP for step in _steps(unit, target))
        if moves or not _same_patients(own, other) or own.references_keys() == other.references_keys():
            continue
        structures = list(unit.scenario.structures)
        cases = _case_scores(store, own, other, structures)
        rows += [{"scenario": scenario, "target": target, **line} for line in _means(cases, structures)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _steps(unit: Unit, target: str) -> tuple[Step, ...]:
    """The acquisition steps of a target."""
    return next((t.acquisition for t in unit.scenario.targets() if t.name == target), ())


def _test(unit: Unit) -> Part:
    """All test cases of a unit."""
    return Part(tuple(chunk for _, _, test in unit.folds for chunk in test.chunks))


def _same_patients(one: Part, other: Part) -> bool:
    anatomies = [{case: keys[0] for case, keys in part.where().items()} for part in (one, other)]
    return anatomies[0] == anatomies[1]


def _case_scores(store: Store, source: Part, target: Part, structures: Sequence[str]) -> pd.DataFrame:
    """Patient, case, structure, DSC and effects of every structure that the target's reference holds."""
    unreachable = not_applicable(store, target)
    drawn_by_source = source.where()
    rows = []
    for case, (anatomy_key, _, references_key) in target.where().items():
        if case in unreachable:
            continue
        info = about(store, anatomy_key, case)
        reference = load_reference(store, references_key, case)
        drawn = load_reference(store, drawn_by_source[case][2], case)
        effects = protocol_effects(drawn, reference, structures, info.get("spacing"))
        rows += [
            {"patient": info["patient"], "case": case, "structure": name, "dsc": effects[name]["agreement"]}
            | {effect: effects[name][effect] for effect in EFFECTS}
            for label, name in enumerate(structures, start=1)
            if (reference == label).any()
        ]
    return pd.DataFrame(rows, columns=["patient", "case", "structure", "dsc", *EFFECTS])


def _means(scores: pd.DataFrame, structures: Sequence[str]) -> list[dict[str, object]]:
    """Mean over patients of each structure that occurs, and of the mean over structures."""
    whole = scores.assign(structure=ALL).groupby(["patient", "case", "structure"], as_index=False)["dsc"].mean()
    every = pd.concat([scores, whole]).astype(dict.fromkeys(("dsc", *EFFECTS), float))
    lines: list[dict[str, object]] = []
    for structure in (*structures, ALL):
        own = every[every["structure"] == structure]
        if own.empty:
            continue
        interval = mean_interval(own.groupby("patient")["dsc"].mean())
        limits = {"low": interval.low, "high": interval.high, "n_patients": interval.n_patients}
        effects = own.groupby("patient")[list(EFFECTS)].mean().mean().to_dict()
        lines.append({"structure": structure, "agreement": interval.mean, **limits, **effects})
    return lines
