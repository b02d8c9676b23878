"""What each level costs a plain U-Net: trained on the source of a phantom, scored on patients under every level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.inference import forward
from shiftbench.materialise import acquired, drawn
from shiftbench.metrics import dsc
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.shifts import value_at
from shiftbench.shifts.operator import Operator
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.spec import BUDGETS
from shiftbench.tasks import Task
from shiftbench.train import fit_supervised
from shiftbench.types import LabelledSet

STRUCTURES = ("liver", "tumour", "spleen", "kidney")
TRAINING_PATIENTS = 60
SEED = 0
COLUMNS = ("operator", "level", "dsc", "drop", "patients")


@dataclass(frozen=True)
class Bench:
    """A trained U-Net with its source: images of one modality of the abdominal phantom, in slices."""

    modality: str
    model: Normalised
    phantom: AbdomenPhantom
    acquisition: dict[str, Any]

    def score(self, patient: int, steps: list[Step]) -> float:
        """Mean DSC over the structures that a patient has, after some steps."""
        anatomy = self.phantom.anatomy(f"p{TRAINING_PATIENTS + patient:04d}", {})
        digest = self.phantom.digest
        image, _ = acquired(anatomy, digest, self.acquisition, steps, SEED)
        reference = drawn(anatomy, self.phantom, STRUCTURES, {}, steps=steps, domain_seed=SEED)
        with torch.no_grad():
            labels = forward(self.model, torch.from_numpy(image.astype(np.float32))).argmax(dim=0).numpy()
        present = [i for i in range(1, len(STRUCTURES) + 1) if (reference == i).any()]
        return float(np.mean([dsc(labels == i, reference == i) for i in present]))


def trained(modality: str, *, steps: int | None = None) -> Bench:
    """The U-Net of the quick budget on the phantom's default source of a modality, mr or ct."""
    phantom = AbdomenPhantom(patients=TRAINING_PATIENTS + 100, seed=SEED)
    acquisition = check_acquisition({"modality": modality})
    recipe = BUDGETS["quick", "2d"]
    images, references = [], []
    for i in range(TRAINING_PATIENTS):
        anatomy = phantom.anatomy(f"p{i:04d}", {})
        images.append(torch.from_numpy(acquired(anatomy, phantom.digest, acquisition, [], SEED)[0].astype(np.float32)))
        references.append(torch.from_numpy(drawn(anatomy, phantom, STRUCTURES, {}).astype(np.int64)))
    normalise = Normalise("window" if modality == "ct" else "zscore")
    model = build("unet_bn", dimension=2, channels=1, task=Task(5), normalise=normalise, patch=recipe.patch)
    cases = LabelledSet(images, references, [f"p{i}" for i in range(len(images))])
    fit_supervised(model, cases, recipe, rng=generator(SEED, "certificate", modality), steps=steps)
    return Bench(modality, model, phantom, acquisition)


def drops(operators: Iterable[Operator], benches: Iterable[Bench], patients: int) -> pd.DataFrame:
    """Mean DSC and its drop against the source, per operator and level that some bench can carry."""
    rows = []
    own = {bench.modality: [bench.score(i, []) for i in range(patients)] for bench in benches}
    for operator in operators:
        for bench in benches:
            if bench.modality not in operator.modalities:
                continue
            rows += _levels(operator, bench, own[bench.modality])
            break
    return pd.DataFrame(rows, columns=COLUMNS)


def _levels(operator: Operator, bench: Bench, own: list[float]) -> list[dict[str, Any]]:
    rows = []
    for level in range(1, 6):
        scores = []
        for patient, source in enumerate(own):
            try:
                scores.append((bench.score(patient, [Step(operator.name, value_at(operator, level))]), source))
            except (NotApplicable, OperatorError):  # this source cannot carry it: no drop is reported
                continue
        if scores:
            shifted, source_scores = np.array(scores).T
            drop = float(np.mean(source_scores - shifted))
            rows.append(
                {
                    "operator": operator.name,
                    "level": level,
                    "dsc": float(shifted.mean()),
                    "drop": drop,
                    "patients": len(scores),
                }
            )
    return rows
