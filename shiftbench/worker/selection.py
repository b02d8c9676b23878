"""How good a configuration looks without labels: one criterion for all methods, from its own predictions.

The criterion is -H - KL(t || t_S) + consistency. H is the balanced entropy of the case over ln k; t the class
proportions that are predicted for the case, t_S those that the model predicts on source-val; consistency the mean DSC
between the prediction and that for the mirrored image, mirrored back. Entropy alone would prefer collapse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shiftbench.blocks import balanced_entropy, predictor
from shiftbench.networks import Normalised
from shiftbench.types import Prediction

MIRRORED = -1  # axis of the view: the last one, which is left to right in axial slices
SMALLEST = 1e-8  # proportion of the source below which a class counts as this rare


@dataclass(frozen=True)
class SourceProportions:
    """What a model predicts on source-val: mean class proportions (k,), and whether each class occurs at all."""

    proportions: Tensor
    occurs: Tensor


def source_proportions(model: Normalised, images: Iterable[Tensor]) -> SourceProportions:
    """Of the model that a method starts from, on raw images (c, *s) of source-val; no label is looked at."""
    predict, k = predictor(model), model.task.classes
    shares, occurs = [], torch.zeros(k, dtype=torch.bool)
    for image in images:
        log_p = _log_probabilities(predict(image), k)
        shares.append(_proportions(log_p))
        occurs[log_p.argmax(0).unique().cpu()] = True
    return SourceProportions(torch.stack(shares).mean(0), occurs)


def selection_facts(source: SourceProportions, prediction: Prediction, mirrored: Prediction) -> dict[str, Any]:
    """The score of one case with its parts, and per structure whether the source has it and this prediction has not.

    Args:
        source: of the model that the method starts from.
        prediction: for the case.
        mirrored: for the case's image, mirrored along its last axis.
    """
    k = len(source.proportions)
    log_p, labels = _log_probabilities(prediction, k), _labels(prediction)
    entropy = float(balanced_entropy(log_p[None])) / math.log(k)
    shares = _proportions(log_p)
    divergence = float(torch.special.xlogy(shares, shares / source.proportions.clamp_min(SMALLEST)).sum())
    agreement = consistency(labels, _labels(mirrored).flip(MIRRORED), k)
    here = torch.zeros(k, dtype=torch.bool)
    here[labels.unique().cpu()] = True
    return {
        "score": -entropy - divergence + agreement,
        "entropy": entropy,
        "divergence": divergence,
        "consistency": agreement,
        "vanished": (source.occurs & ~here)[1:].tolist(),
    }


def consistency(labels: Tensor, other: Tensor, classes: int) -> float:
    """Mean DSC of the structures of two label maps (*s); a structure that both lack is left out, 0 if they lack all.

    An empty prediction agrees with itself perfectly, and must not look good for it.
    """
    scores = []
    for label in range(1, classes):
        one, two = labels == label, other == label
        total = int(one.sum()) + int(two.sum())
        if total:
            scores.append(2 * int((one & two).sum()) / total)
    return sum(scores) / len(scores) if scores else 0.0


def _labels(prediction: Prediction) -> Tensor:
    """Labels (*s) as they are scored: the method's own where it gives some."""
    if prediction.labels is not None:
        return prediction.labels.detach().long()
    assert prediction.log_probabilities is not None  # a valid prediction has one of the two
    return prediction.log_probabilities.detach().argmax(0)


def _log_probabilities(prediction: Prediction, classes: int) -> Tensor:
    """Log-probabilities (k, *s) of a prediction; labels alone are taken as certain."""
    if prediction.log_probabilities is not None:
        return prediction.log_probabilities.detach().float()
    assert prediction.labels is not None  # a valid prediction has one of the two
    one_hot = torch.nn.functional.one_hot(prediction.labels.detach().long(), classes).movedim(-1, 0)
    return one_hot.float().clamp_min(torch.finfo(torch.float32).tiny).log()


def _proportions(log_p: Tensor) -> Tensor:
    """Class proportions (k,), float64 on the CPU."""
    return log_p.flatten(1).double().exp().mean(1).cpu()
