"""Detection and segmentation of instances: which predicted one is which reference one, and how well it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from shiftbench.metrics.components import components
from shiftbench.metrics.overlap import as_array

MATCHED_ABOVE = 0.5  # IoU; strictly above it no instance has two partners (Kirillov et al. 2019)


@dataclass(frozen=True)
class Overlaps:
    """Every pair of a predicted and a reference instance that share a voxel.

    Attributes:
        predicted: ids (n,) of the predicted instances of the pairs.
        reference: ids (n,) of the reference instances of the pairs.
        iou: intersection over union (n,) of the pairs.
        n_predicted: predicted instances, paired or not.
        n_reference: reference instances, paired or not.
    """

    predicted: np.ndarray
    reference: np.ndarray
    iou: np.ndarray
    n_predicted: int
    n_reference: int

    def matches(self) -> np.ndarray:
        """Which pairs are matched, bool (n,): IoU strictly above 0.5, so that at most one pair of any instance is."""
        return self.iou > MATCHED_ABOVE

    def counts(self) -> tuple[int, int, int]:
        """Matched (true positives), unmatched predicted (false positives), unmatched reference (false negatives)."""
        tp = int(self.matches().sum())
        return tp, self.n_predicted - tp, self.n_reference - tp

    def pq(self) -> float | None:
        """Panoptic quality, SQ times RQ: the sum of the matched IoUs over TP + FP / 2 + FN / 2.

        Returns:
            0 if nothing is matched, None if there is no instance on either side.

        Reference:
            Kirillov, He, Girshick, Rother, Dollár, Panoptic segmentation, CVPR 2019.
        """
        total = self.n_predicted + self.n_reference
        return 2 * float(self.iou[self.matches()].sum()) / total if total else None

    def sq(self) -> float | None:
        """Segmentation quality: mean IoU of the matched pairs; None if there are none."""
        found = self.iou[self.matches()]
        return float(found.mean()) if found.size else None

    def rq(self) -> float | None:
        """Recognition quality, the F1 of detection: 2 TP over all instances; None if there are none."""
        total = self.n_predicted + self.n_reference
        return 2 * self.counts()[0] / total if total else None

    def precision(self) -> float | None:
        """Share of the predicted instances that are matched; None if there are none."""
        return self.counts()[0] / self.n_predicted if self.n_predicted else None

    def recall(self) -> float | None:
        """Share of the reference instances that are matched; None if there are none."""
        return self.counts()[0] / self.n_reference if self.n_reference else None


def overlaps(predicted: np.ndarray, reference: np.ndarray) -> Overlaps:
    """The pairs of instances that overlap, from one table of counts.

    Args:
        predicted: ids (*s), 0 for none; of one class. Bool for a class that is one segment.
        reference: the same.

    Raises:
        ValueError: shapes differ.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"the ids have the shapes {predicted.shape} and {reference.shape}")
    somewhere = (predicted > 0) | (reference > 0)
    p_ids, p = np.unique(predicted[somewhere], return_inverse=True)
    r_ids, r = np.unique(reference[somewhere], return_inverse=True)
    pairs, shared = np.unique(p * np.int64(len(r_ids) or 1) + r, return_counts=True)
    i, j = np.divmod(pairs, len(r_ids) or 1)
    p_sizes, r_sizes = np.bincount(p, minlength=len(p_ids)), np.bincount(r, minlength=len(r_ids))
    both = (p_ids[i] > 0) & (r_ids[j] > 0)
    i, j, shared = i[both], j[both], shared[both]
    iou = shared / (p_sizes[i] + r_sizes[j] - shared)
    return Overlaps(p_ids[i], r_ids[j], iou, int((p_ids > 0).sum()), int((r_ids > 0).sum()))


class PanopticQuality(NamedTuple):
    """Panoptic quality and its factors: segmentation quality and recognition quality."""

    pq: float | None
    sq: float | None
    rq: float | None


def panoptic_quality(
    prediction: ArrayLike | Sequence[ArrayLike], reference: ArrayLike | Sequence[ArrayLike]
) -> PanopticQuality:
    """PQ = SQ times RQ of the instances of one class, matched where their IoU is strictly above 0.5.

    Args:
        prediction: instance ids, integers (*s), 2-D or 3-D, 0 for none; or a boolean mask (*s), whose connected
            components (8-connected in 2-D, 26-connected in 3-D) are the instances; or a list of masks, one of each.
        reference: the same, on the same grid.

    Returns:
        (pq, sq, rq): PQ and RQ are None if there is no instance on either side, SQ is None if none is matched.

    Raises:
        ValueError: shapes differ, ids are negative or no integers, or masks of a list overlap.

    Reference:
        Kirillov, He, Girshick, Rother, Dollár, Panoptic segmentation, CVPR 2019.
    """
    found = overlaps(_instance_ids(prediction, "prediction"), _instance_ids(reference, "reference"))
    return PanopticQuality(found.pq(), found.sq(), found.rq())


def _instance_ids(instances: Any, name: str) -> np.ndarray:
    """Ids (*s) of any form that `panoptic_quality` takes."""
    if isinstance(instances, list | tuple) and instances and all(np.ndim(mask) > 1 for mask in instances):
        return _stacked([as_array(mask) for mask in instances], name)
    ids = as_array(instances)
    if ids.ndim not in (2, 3):
        raise ValueError(f"{name} has {ids.ndim} dimensions; a map of instances has 2 or 3")
    if ids.dtype == bool:
        return components(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} has values of type {ids.dtype}; ids of instances are integers")
    if ids.size and ids.min() < 0:
        raise ValueError(f"{name} has the id {ids.min()}; ids of instances are positive, and 0 is none")
    return ids


def _stacked(masks: list[np.ndarray], name: str) -> np.ndarray:
    """Ids (*s) of masks that do not overlap, 1 for the first."""
    ids = np.zeros(masks[0].shape, np.int32)
    for i, mask in enumerate(masks, start=1):
        if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
            raise ValueError(f"mask {i} of {name} is no binary mask of shape {ids.shape}")
        inside = mask.astype(bool)
        if (ids[inside] > 0).any():
            other = int(ids[inside & (ids > 0)][0])
            raise ValueError(f"masks {other} and {i} of {name} overlap; a voxel belongs to one instance")
        ids[inside] = i
    return ids


def segment_values(found: Overlaps) -> dict[str, float | None]:
    """Every metric of SEGMENT_SCORERS and INSTANCE_SCORERS by its name."""
    return {
        "pq": found.pq(),
        "sq": found.sq(),
        "rq": found.rq(),
        "instance_precision": found.precision(),
        "instance_recall": found.recall(),
    }
