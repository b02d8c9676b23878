"""Detection and segmentation of instances: which predicted one is which reference one, and how well it fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def segment_values(found: Overlaps) -> dict[str, float | None]:
    """Every metric of SEGMENT_SCORERS and INSTANCE_SCORERS by its name."""
    return {
        "pq": found.pq(),
        "sq": found.sq(),
        "rq": found.rq(),
        "instance_precision": found.precision(),
        "instance_recall": found.recall(),
    }
