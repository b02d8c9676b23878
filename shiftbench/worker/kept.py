"""What is kept of a prediction beside its labels: arrays that the scenario asks for, and facts for the record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.tasks import Task
from shiftbench.types import Prediction

FLOOR = math.log(1e-9)  # the floors of a hundred classes together stay under `metrics.calibration.CLIP`


def kept(
    prediction: Prediction, labels: np.ndarray, layout: Task, keep: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays to store and facts (JSON values) to record of one valid prediction.

    Args:
        prediction: of the method, on any device.
        labels: uint8 (*s), decoded from it.
        layout: of the task.
        keep: what the scenario asks for: "log_probabilities".

    Returns:
        "log_probabilities" (k, *s) in half precision, where they are asked for and there are any, and the fact
        "confidence": {"definition", "values"}, one value per structure, where the method gives more than labels.
    """
    arrays: dict[str, np.ndarray] = {}
    if "log_probabilities" in keep and prediction.log_probabilities is not None:
        # Half precision changes a log-probability by at most 2^-8, below -16 by 2^-7, and by less above -8.
        arrays["log_probabilities"] = prediction.log_probabilities.detach().clamp(min=FLOOR).half().cpu().numpy()
    return arrays, _confidence(prediction, labels, layout)


def _confidence(prediction: Prediction, labels: np.ndarray, layout: Task) -> dict[str, Any]:
    """The method's own uncertainty where it gives one, else the soft Dice of its probabilities."""
    if prediction.uncertainty is not None:
        uncertainty = prediction.uncertainty.detach().float()
        values = _sure(uncertainty, torch.from_numpy(labels).to(uncertainty.device), layout.classes)
        return {"confidence": {"definition": "uncertainty", "values": values}}
    if prediction.log_probabilities is not None:
        scores = prediction.log_probabilities.detach()
        values = soft_dice(scores, torch.from_numpy(labels).to(scores.device))
        return {"confidence": {"definition": "soft_dice", "values": values}}
    return {}


def soft_dice(log_probabilities: Tensor, labels: Tensor) -> list[float]:
    """2 sum(p l) / (sum p + sum l) of each structure, l being its predicted mask; 0 where nothing is predicted.

    Args:
        log_probabilities: (k, *s), background first.
        labels: (*s), on the same device.

    Reference:
        Borges, Pacheco, Silva, Soft Dice Confidence, arXiv:2402.10665, 2024.
    """
    values = []
    for label, scores in enumerate(log_probabilities.float()):
        if label:
            p, mask = scores.exp(), labels == label
            inside, total, size = (p * mask).sum(), p.sum(), mask.sum()
            values.append(torch.where(size > 0, 2 * inside / (total + size).clamp(min=1e-12), torch.zeros_like(total)))
    return torch.stack(values).tolist()


def _sure(uncertainty: Tensor, labels: Tensor, classes: int) -> list[float]:
    """1 - mean uncertainty over the voxels of each predicted structure; over the whole case where it has none."""
    whole = uncertainty.mean()
    values = []
    for label in range(1, classes):
        mask = labels == label
        size = mask.sum()
        mean = torch.where(size > 0, (uncertainty * mask).sum() / size.clamp(min=1), whole)
        values.append(1.0 - mean)
    return torch.stack(values).tolist()
