"""Rows of a made-up run for the tests of tables and pictures: known effects, crossed patients and seeds, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from shiftbench.rng import generator
from shiftbench.types import Row, Status

# method: track, k, share of a drop that it recovers, loss without a shift
METHODS = {
    "erm": ("dg", None, 0.0, 0.0),
    "histmatch": ("harmonise", None, 0.25, 0.01),
    "pred_bn": ("tta", None, 0.35, 0.02),
    "tent_bn": ("tta", None, 0.4, 0.025),
    "alpha_bn": ("tta", None, 0.3, 0.005),
    "adabn": ("sfda", None, 0.38, 0.01),
    "fda": ("uda", None, 0.2, 0.01),
    "fewshot_ft_1": ("fewshot", 1, 0.5, 0.03),
    "fewshot_ft_5": ("fewshot", 5, 0.75, 0.01),
    "target_oracle": ("reference", None, 1.0, 0.0),
}
WITHOUT_TARGET_LABELS = {m for m, (track, *_) in METHODS.items() if track not in ("fewshot", "reference")}

# scenario: name of the target, family, operator, unit, (level, value, drop of source-only)
SCENARIOS = {
    "control": ("same-scanner", "control", "identity", "", [(1, 0.0, 0.0)]),
    "flip-angle": (
        "flip",
        "acquisition",
        "flip_angle",
        "% of the nominal flip angle",
        [(1, 85.0, 0.01), (2, 70.0, 0.03), (3, 50.0, 0.08), (4, 35.0, 0.17), (5, 25.0, 0.3)],
    ),
    "noise": (
        "snr",
        "acquisition",
        "rician_noise",
        "SNR",
        [(1, 40.0, 0.02), (2, 25.0, 0.05), (3, 15.0, 0.1), (4, 10.0, 0.2), (5, 6.0, 0.38)],
    ),
    "hilum": ("hilum-in", "annotation", None, None, [(None, None, 0.05)]),
    "lesion-load": ("many-lesions", "population", "lesion_load", "times", [(3, 3.0, 0.06)]),
    "new-site": ("new-site", "combined", None, None, [(None, None, 0.22)]),
}
STRUCTURES = {"liver": 0.91, "tumour": 0.72}


def make_rows(
    *,
    patients: int = 24,
    seeds: Iterable[int] = (0,),
    methods: Iterable[str] = tuple(METHODS),
    backbone: str = "unet_bn",
) -> pd.DataFrame:
    """One row per method, domain, patient, seed, structure and metric (dsc and nsd)."""
    rows = []
    for scenario, (name, family, operator, unit, levels) in SCENARIOS.items():
        for seed in seeds:
            for method in methods:
                shift = {"scenario": scenario, "seed": seed, "backbone": backbone}
                rows += _domain(method, "site-a", "control", None, None, (None, None, 0.0), patients, shift)
                for level in levels:
                    target = f"{name}:{level[0]:g}" if len(levels) > 1 else name
                    rows += _domain(method, target, family, operator, unit, level, patients, shift)
    return pd.DataFrame([asdict(row) for row in rows])


def _domain(method, target, family, operator, unit, level, patients, shift) -> list[Row]:
    track, k, recovered, loss = METHODS[method]
    severity, value, drop = level
    if method == "target_oracle" and family == "control":
        return []
    if family == "annotation" and method in WITHOUT_TARGET_LABELS:
        recovered = 0.0
    rows = []
    for i in range(patients):
        patient = f"patient-{i:02d}"
        for structure, level_0 in STRUCTURES.items():
            where = (patient, structure)
            case = generator(1, *where).normal(0, 0.04) + generator(2, *where, shift["seed"]).normal(0, 0.01)
            case += generator(3, *where, target, method).normal(0, 0.012)
            score = level_0 + case - drop * (1 - 0.9 * recovered) - loss
            for metric, offset in (("dsc", 0.0), ("nsd", 0.03)):
                rows.append(
                    _row(
                        **shift,
                        target=target,
                        family=family,
                        operator=operator,
                        level=severity,
                        level_value=value,
                        level_unit=unit,
                        method=method,
                        track=track,
                        k=k,
                        case=patient,
                        patient=patient,
                        structure=structure,
                        metric=metric,
                        value=min(0.995, max(0.0, score + offset)),
                    )
                )
    return rows


def _row(**known) -> Row:
    rest = {
        "suite": "quick",
        "scenario_version": 1,
        "source": "site-a",
        "method_version": "1",
        "budget": "quick",
        "draw": 0,
        "episode": "offline",
        "definition": "counts" if known["metric"] == "dsc" else "S",
        "tolerance": None if known["metric"] == "dsc" else 2.0,
        "unit": "1",
        "bound": None,
        "status": str(Status.OK),
        "detail": "",
        "seconds": 0.4,
        "peak_mb": 300.0,
        "isolation": "process",
        "checkpoint": "c0",
        "prediction": "p",
        "versions": "v",
    }
    return Row(**{**rest, **known})


def fail(rows: pd.DataFrame, method: str, patients: Iterable[str] | None = None) -> pd.DataFrame:
    """`rows` in which `method` gave no prediction for some patients (all if None) outside its source: scored 0."""
    hit = (rows["method"] == method) & (rows["target"] != rows["source"])
    if patients is not None:
        hit &= rows["patient"].isin(list(patients))
    rows = rows.copy()
    rows.loc[hit, "value"] = 0.0
    rows.loc[hit, "status"] = str(Status.FAILED)
    rows.loc[hit, "detail"] = "the method raised ValueError"
    return rows


def not_applicable(rows: pd.DataFrame, method: str, reason: str) -> pd.DataFrame:
    """`rows` in which `method` has nothing to adapt anywhere."""
    hit = rows["method"] == method
    rows = rows.copy()
    rows.loc[hit, "value"] = None
    rows.loc[hit, "status"] = str(Status.NOT_APPLICABLE)
    rows.loc[hit, "detail"] = reason
    return rows
