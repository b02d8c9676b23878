"""A little over 10,000 rows of a made-up run, for the time that a leaderboard takes."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import numpy as np
import pandas as pd

from shiftbench.rng import generator
from shiftbench.types import Row, Status

METHODS = {
    **{"erm": ("dg", 0.0), "histmatch": ("harmonise", 0.25), "pred_bn": ("tta", 0.35), "tent_bn": ("tta", 0.4)},
    **{"alpha_bn": ("tta", 0.3), "adabn": ("sfda", 0.38), "fda": ("uda", 0.2), "dann": ("uda", 0.3)},
    **{"augment": ("dg", 0.3), "target_oracle": ("reference", 1.0)},
}  # track, and the share of a drop that is recovered
TARGETS = {
    "site-a": 0.0,
    "site-b": 0.15,
    "site-c": 0.1,
    "site-d": 0.25,
    "site-e": 0.05,
}  # drop; the first is the source
SEEDS, PATIENTS, STRUCTURES, METRICS = 2, 26, ("liver", "tumour"), {"dsc": "counts", "nsd": "S"}


def made_up_rows() -> pd.DataFrame:
    """One row per method, target, seed, patient, structure and metric."""
    keys = ["method", "target", "seed", "patient", "structure", "metric"]
    patients = [f"p{i:02d}" for i in range(PATIENTS)]
    rows = pd.DataFrame(product(METHODS, TARGETS, range(SEEDS), patients, STRUCTURES, METRICS), columns=keys)
    drop = rows["target"].map(TARGETS) * (1 - rows["method"].map(lambda method: METHODS[method][1]))
    patient = rows["patient"].map(dict(zip(patients, generator(0, "patients").normal(0, 0.05, PATIENTS), strict=True)))
    noise = generator(0, "rows").normal(0, 0.02, len(rows))
    at_home = rows["target"] == "site-a"
    made = rows.assign(
        value=np.clip(0.85 - drop + patient + noise, 0, 1),
        track=rows["method"].map(lambda method: METHODS[method][0]),
        case=rows["patient"],
        definition=rows["metric"].map(METRICS),
        tolerance=np.where(rows["metric"] == "nsd", 2.0, None),
        family=np.where(at_home, "control", "acquisition"),
        **{"suite": "made-up", "scenario": "sites", "scenario_version": 1, "source": "site-a", "backbone": "unet_bn"},
        **{"method_version": "1", "budget": "quick", "draw": 0, "episode": "offline", "unit": "1", "bound": None},
        **{"status": str(Status.OK), "detail": "", "seconds": 0.4, "peak_mb": 300.0, "isolation": "process"},
        **{"checkpoint": "c", "prediction": "p", "versions": "v"},
    )
    absent = {field.name: None for field in fields(Row) if field.name not in made}
    made = made.assign(**absent)
    return made[~((made["method"] == "target_oracle") & at_home)].reset_index(drop=True)
