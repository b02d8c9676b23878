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
    levels: Iterable[int] = (1, 3, 5),
    backbone: str = "unet_bn",
) -> pd.DataFrame:
    """One row per method, domain, patient, seed, structure and metric (dsc and nsd)."""
    rows = []
    for scenario, (name, family, operator, unit, settings) in SCENARIOS.items():
        chosen = [s for s in settings if len(settings) == 1 or s[0] in levels]
        for seed in seeds:
            for method in methods:
                run = {"scenario": scenario, "seed": seed, "backbone": backbone}
                rows += _domain(method, "site-a", "control", None, None, (None, None, 0.0), patients, run)
                for level in chosen:
                    target = f"{name}:{level[0]:g}" if len(chosen) > 1 else name
                    rows += _domain(method, target, family, operator, unit, level, patients, run)
    return pd.DataFrame([asdict(row) for row in rows])


def _domain(method, target, family, operator, unit, level, patients, run) -> list[Row]:
    track, k, recovered, loss = METHODS[method]
    severity, value, drop = level
    if method == "target_oracle" and family == "control":
        return []
    if family == "annotation" and method in WITHOUT_TARGET_LABELS:
        recovered = 0.0
    size = (len(STRUCTURES), patients)
    noise = generator(1, "patients").normal(0, 0.04, size) + generator(2, run["seed"]).normal(0, 0.01, size)
    noise += generator(3, run["seed"], target, method).normal(0, 0.012, size)
    shift = {"operator": operator, "level": severity, "level_value": value, "level_unit": unit}
    who = {"target": target, "family": family, "method": method, "track": track, "k": k}
    rows = []
    for structure, clean, noisy in zip(STRUCTURES, STRUCTURES.values(), noise, strict=True):
        scores = clean + noisy - drop * (1 - 0.9 * recovered) - loss
        for i, score in enumerate(scores):
            case = {"case": f"patient-{i:02d}", "patient": f"patient-{i:02d}", "structure": structure}
            for metric, offset in (("dsc", 0.0), ("nsd", 0.03)):
                shown = min(0.995, max(0.0, float(score) + offset))
                rows.append(_row(**run, **shift, **who, **case, metric=metric, value=shown))
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
