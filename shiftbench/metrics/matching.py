"""One-to-one matching of predicted and reference components below an IoU of one half, where it is no longer unique."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shiftbench.metrics.instance import MATCHED_ABOVE, Overlaps

TIE = 1e-9  # weight of a component's size where matchings are equally good otherwise


def matched(pairs: Overlaps, above: float, reference_sizes: np.ndarray) -> np.ndarray:
    """Which pairs are matched, bool (n,): one-to-one, as many as can be with an IoU strictly above `above`.

    From 0.5 on no component has two partners. Below, a component may fit several: of all one-to-one matchings with the
    most pairs the one with the largest sum of IoUs is taken, and among equals the one of the larger reference
    components. No component is credited twice.

    Args:
        pairs: of components that overlap; reference ids are 1 to n.
        above: the threshold, which a matched pair must exceed.
        reference_sizes: voxels (n,) of the reference components.

    Reference:
        Kuhn, The Hungarian method for the assignment problem, Naval Res. Logist. Q. 2, 1955.
    """
    fits = pairs.iou > above
    if above >= MATCHED_ABOVE:
        return fits
    candidates = np.flatnonzero(fits)
    _, p = np.unique(pairs.predicted[candidates], return_inverse=True)
    _, r = np.unique(pairs.reference[candidates], return_inverse=True)
    contested = (np.bincount(p)[p] > 1) | (np.bincount(r)[r] > 1) if candidates.size else np.zeros(0, bool)
    chosen = ~contested
    worth = pairs.iou[candidates] + TIE * reference_sizes[pairs.reference[candidates] - 1] / reference_sizes.sum()
    for group in _groups(p, r, np.flatnonzero(contested)):
        chosen[group] = _assigned(p[group], r[group], worth[group])
    result = np.zeros(len(fits), bool)
    result[candidates] = chosen
    return result


def _groups(p: np.ndarray, r: np.ndarray, contested: np.ndarray) -> list[np.ndarray]:
    """The contested pairs, in groups that share no component, so that each assignment is a small one."""
    if not contested.size:
        return []
    p, r = p[contested], r[contested]
    n = p.max() + r.max() + 2
    graph = coo_array((np.ones(len(p), np.int8), (p, r + p.max() + 1)), shape=(n, n))
    group = connected_components(graph, directed=False)[1][p]
    order = np.argsort(group, kind="stable")
    return np.split(contested[order], np.flatnonzero(np.diff(group[order])) + 1)


def _assigned(p: np.ndarray, r: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Which of the pairs (n,) an assignment takes: most pairs first, then the largest sum of `worth`."""
    _, row = np.unique(p, return_inverse=True)
    _, column = np.unique(r, return_inverse=True)
    weights = np.zeros((row.max() + 1, column.max() + 1))
    weights[row, column] = len(p) + 1 + worth  # one more pair outweighs any sum of IoUs
    partner = np.full(len(weights), -1)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    partner[rows] = columns
    return partner[row] == column
