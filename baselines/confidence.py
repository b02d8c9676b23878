"""Estimates of the DSC without labels, from how sure the source-only model is of its own prediction.

`doc`: Guillory, Shankar, Ebrahimi, Darrell, Schmidt, Predicting with confidence on unseen distributions, ICCV 2021.
`atc`: Garg, Balakrishnan, Lipton, Neyshabur, Sedghi, Leveraging unlabeled data to predict out-of-distribution
performance, ICLR 2022. `cs_doc`, `cs_atc`: Li, Kamnitsas, Islam, Chen, Glocker, Estimating model performance under
domain shifts with class-specific confidence scores, MICCAI 2022. `softdice`: the expected DSC under calibrated
probabilities (temperature: Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017).

Differs from the paper:
    All give one DSC per case and structure; a mean over a target is the mean over its cases.
    doc: the drop of the mean confidence over all voxels of a case is taken from the DSC on source-val, for every
        structure alike (the paper estimates accuracy).
    atc: a voxel is taken for wrong where its negative entropy is below the threshold that gives the voxel accuracy on
        source-val; a wrong voxel is a false positive of its class and a miss of its second most probable class.
    cs_atc: one threshold per structure, so that the mean DSC that is counted this way is the true one on source-val.
    softdice: one temperature for all classes, fitted to at most 2^20 evenly spaced voxels of source-val.
    A structure that no case of source-val has is estimated by its soft Dice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from shiftbench.api import Access, Episode, LabelledSet, Normalised, NotApplicable, Track, entropy, predictor

VERSION = 1
VOXELS = 2**20  # of source-val that a temperature is fitted to
TEMPERATURES = (0.05, 20.0)
HALVINGS = 60  # of an interval that holds a threshold
Expect = Callable[[Tensor], Tensor]  # log-probabilities (k, *s) of a case to the DSC (k - 1,) that one expects


@dataclass(frozen=True)
class Method:
    """What the model's confidence says of its DSC, by one of five rules that are fitted on source-val."""

    rule: Literal["softdice", "doc", "atc", "cs_atc", "cs_doc"] = "cs_doc"
    track: Track = Track.ESTIMATE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def estimate(self, model: Normalised, access: Access, images: Sequence[Tensor]) -> Tensor:
        """Expected DSC (n, k - 1) of the model on each image."""
        if access.source_val is None or not len(access.source_val):
            raise NotApplicable("there are no source-val cases to fit to")
        expect, predict = RULES[self.rule](model, access.source_val), predictor(model)
        found = [expect(_scores(predict(image).log_probabilities)).clamp(0, 1).cpu() for image in images]
        return torch.stack(found) if found else torch.zeros(0, model.task.classes - 1)


def soft_dice(log_p: Tensor) -> Tensor:
    """2 sum(p y) / (sum p + sum y) of each structure (k - 1,), with y the argmax: its DSC if p is calibrated."""
    p, predicted = log_p.exp().flatten(1), one_hot(log_p.argmax(0), len(log_p))
    return (2 * (p * predicted).sum(1) / (p.sum(1) + predicted.sum(1)))[1:]


def true_dice(log_p: Tensor, reference: Tensor) -> Tensor:
    """DSC of the argmax for each structure (k - 1,); NaN for one that the reference has not."""
    predicted, drawn = one_hot(log_p.argmax(0), len(log_p)), one_hot(reference, len(log_p))
    score = 2 * (predicted * drawn).sum(1) / (predicted.sum(1) + drawn.sum(1))
    return score.where(drawn.sum(1) > 0, torch.nan)[1:]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Float64 (k, v) of labels (*s)."""
    return torch.nn.functional.one_hot(labels.flatten().long(), classes).T.double()


def temperature(log_p: Tensor, labels: Tensor) -> float:
    """The T that minimises the negative log-likelihood of labels (n,) under softmax(log p / T), log p (k, n)."""

    def loss(log_t: float) -> float:
        scaled = log_p / math.exp(log_t)
        return float((scaled.logsumexp(0) - scaled.gather(0, labels[None])[0]).mean())

    limits = [math.log(t) for t in TEMPERATURES]
    return math.exp(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6}).x)


def scaled_soft_dice(model: Normalised, val: LabelledSet) -> Expect:
    """Soft Dice of probabilities whose temperature was fitted on source-val."""
    every = math.ceil(sum(reference.numel() for reference in val.references) / VOXELS)
    parts = [(log_p.flatten(1)[:, ::every], r.flatten()[::every]) for log_p, r in _predicted(model, val)]
    t = temperature(torch.cat([p for p, _ in parts], 1), torch.cat([r for _, r in parts]).long())
    return lambda log_p: soft_dice((log_p / t).log_softmax(0))


def difference_of_confidence(model: Normalised, val: LabelledSet) -> Expect:
    """The DSC on source-val less the drop of the mean confidence."""
    cases = [(true_dice(log_p, r), _confidence(log_p)) for log_p, r in _predicted(model, val)]
    true, sure = torch.stack([c[0] for c in cases]), torch.stack([c[1] for c in cases])
    home = (true - sure[:, None]).nanmean(0)  # DSC_S - conf_S, over the cases that have the structure
    return lambda log_p: torch.where(home.isnan(), soft_dice(log_p), home + _confidence(log_p))


def class_specific_difference(model: Normalised, val: LabelledSet) -> Expect:
    """Soft Dice less what it exceeds the DSC by on source-val."""
    excess = torch.stack([soft_dice(log_p) - true_dice(log_p, r) for log_p, r in _predicted(model, val)]).nanmean(0)
    return lambda log_p: soft_dice(log_p) - excess.nan_to_num(0.0)


def thresholded_confidence(model: Normalised, val: LabelledSet) -> Expect:
    """DSC counted from the voxels above a threshold that as many voxels of source-val fail as are wrong there."""
    scores, wrong = [], 0
    for log_p, reference in _predicted(model, val):
        scores.append(_certainty(log_p).float().cpu().numpy().ravel())
        wrong += int((log_p.argmax(0) != reference).sum())
    t = accuracy_threshold(np.concatenate(scores), wrong)
    return lambda log_p: counted_dice(log_p, torch.full((len(log_p) - 1,), t))


def accuracy_threshold(scores: np.ndarray, wrong: int) -> float:
    """The t below which `wrong` of the scores (n,) lie."""
    return math.inf if wrong >= len(scores) else float(np.partition(scores, wrong)[wrong])


def class_specific_thresholds(model: Normalised, val: LabelledSet) -> Expect:
    """As `thresholded_confidence`, with the threshold of each structure that gives its true DSC on source-val."""
    cases = [(*_ranked(log_p), true_dice(log_p, r).cpu()) for log_p, r in _predicted(model, val)]
    true = torch.stack([case[-1] for case in cases])
    structures = model.task.classes - 1
    low, high = torch.full((structures,), -math.log(structures + 1) - 1.0), torch.ones(structures)  # holds [-ln k, 0]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counted = torch.stack([_counted(own, second, middle) for own, second, _ in cases])
        above = (counted - true).nanmean(0) > 0  # too few voxels fail
        low, high = middle.where(above, low), high.where(above, middle)
    known = ~true.isnan().all(0)
    return lambda log_p: counted_dice(log_p, low).where(known.to(log_p.device), soft_dice(log_p))


def counted_dice(log_p: Tensor, thresholds: Tensor) -> Tensor:
    """DSC of each structure (k - 1,) if just the voxels less certain than its threshold are wrong."""
    own, second = _ranked(log_p)
    return _counted(own, second, thresholds).to(log_p.device)


def _ranked(log_p: Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per structure the sorted certainties of the voxels it is predicted in, and of those where it comes second."""
    first, second = log_p.topk(2, dim=0).indices.flatten(1).cpu()
    score = _certainty(log_p).flatten().float().cpu()
    structures = range(1, len(log_p))
    return tuple([np.sort(score[which == c].numpy()) for c in structures] for which in (first, second))  # type: ignore[return-value]


def _counted(own: Sequence[np.ndarray], second: Sequence[np.ndarray], thresholds: Tensor) -> Tensor:
    found = []
    for mine, others, t in zip(own, second, thresholds.tolist(), strict=True):
        false, missed = (int(np.searchsorted(scores, t)) for scores in (mine, others))
        right = len(mine) - false
        found.append(2 * right / (2 * right + false + missed) if right else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def _certainty(log_p: Tensor) -> Tensor:
    """Negative entropy (*s) in nats."""
    return -entropy(log_p[None])[0]


def _confidence(log_p: Tensor) -> Tensor:
    """Mean probability of the predicted class over all voxels."""
    return log_p.max(0).values.exp().mean()


def _predicted(model: Normalised, cases: LabelledSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities (k, *s), float64, and reference (*s) of each case."""
    predict = predictor(model)
    for image, reference in zip(cases.images, cases.references, strict=True):
        yield _scores(predict(image).log_probabilities), reference


def _scores(log_p: Tensor | None) -> Tensor:
    assert log_p is not None  # `predictor` gives them
    return log_p.double()


RULES = {
    "softdice": scaled_soft_dice,
    "doc": difference_of_confidence,
    "atc": thresholded_confidence,
    "cs_atc": class_specific_thresholds,
    "cs_doc": class_specific_difference,
}

VARIANTS = {
    "softdice": Method(rule="softdice"),
    "doc": Method(rule="doc"),
    "atc": Method(rule="atc"),
    "cs_atc": Method(rule="cs_atc"),
    "cs_doc": Method(),
}
