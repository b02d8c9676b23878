"""Whether confidence tells good cases from bad ones: curves of risk against coverage, their areas, and OOD detection.

Cases are kept from the most to the least confident one. The coverage is the share that is kept, the selective risk the
mean risk of those, and the generalised risk their summed risk over all cases: the joint of being wrong and being kept.
Cases of equal confidence cannot be told apart, so each value is its mean over all orders among them, exactly.

With confidences that say nothing, AURC is the mean risk and AUGRC half of it; with those of `optimal_aurc` and
`optimal_augrc` they are as small as these risks allow. A confidence of -inf is that of a case without a prediction.

References:
    Geifman, Uziel, El-Yaniv, Bias-reduced uncertainty estimation for deep neural classifiers, ICLR 2019 (E-AURC).
    Traub et al., Overcoming common flaws in the evaluation of selective classification systems, NeurIPS 2024 (AUGRC).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def risk_coverage(confidence: ArrayLike, risk: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Coverage 1/n, 2/n, ..., 1 and the selective risk at each, shapes (n,).

    Args:
        confidence: of the cases, shape (n,); higher is surer.
        risk: of the cases, shape (n,), as 1 - DSC.

    Raises:
        ValueError: shapes differ, there is no case, a confidence is NaN or +inf, or a risk is not finite.
    """
    coverage, kept = generalised_risk(confidence, risk)
    return coverage[1:], kept[1:] / coverage[1:]


def generalised_risk(confidence: ArrayLike, risk: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Coverage 0, 1/n, ..., 1 and the generalised risk at each, shapes (n + 1,); see `risk_coverage`."""
    c, r = _checked(confidence, risk)
    order, first = _groups(c)
    sizes = np.diff(np.r_[first, c.size])
    expected = np.repeat(np.add.reduceat(r[order], first) / sizes, sizes)
    return np.arange(c.size + 1) / c.size, np.r_[0.0, np.cumsum(expected)] / c.size


def aurc(confidence: ArrayLike, risk: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean of the selective risk at 1, 2, ..., n cases kept."""
    return float(resampled_areas(confidence, risk)[0][0])


def optimal_aurc(risk: ArrayLike) -> float:
    """The AURC of a confidence that orders the cases by their risk."""
    return aurc(-np.asarray(risk, float), risk)


def e_aurc(confidence: ArrayLike, risk: ArrayLike) -> float:
    """Excess AURC: what is above the optimum for these risks; 0 where the order is perfect."""
    return aurc(confidence, risk) - optimal_aurc(risk)


def augrc(confidence: ArrayLike, risk: ArrayLike) -> float:
    """Area under the generalised risk over coverage: the mean risk that slips through, over all coverages."""
    return float(resampled_areas(confidence, risk)[1][0])


def optimal_augrc(risk: ArrayLike) -> float:
    """The AUGRC of a confidence that orders the cases by their risk."""
    return augrc(-np.asarray(risk, float), risk)


def resampled_areas(
    confidence: ArrayLike, risk: ArrayLike, counts: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AURC and AUGRC of each resample, shapes (b,).

    Args:
        confidence: of the cases, shape (n,).
        risk: of the cases, shape (n,).
        counts: how often each case is in each resample, integers of shape (b, n); each case once if None.

    Raises:
        ValueError: see `risk_coverage`; or a resample is empty.
    """
    size, total = _weighted_groups(confidence, risk, counts)
    kept, lost = np.cumsum(size, axis=1), np.cumsum(total, axis=1)
    before, n = kept - size, kept[:, -1]
    harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, kept.max() + 1))]
    # The sum over j = 1..size of (lost before + j mean) / (before + j), mean being that of the group.
    area = total + (lost - total - total / np.maximum(size, 1) * before) * (harmonic[kept] - harmonic[before])
    joint = size * (lost - total / 2)
    return area.sum(axis=1) / n, joint.sum(axis=1) / n.astype(float) ** 2


def ood_auroc(source: ArrayLike, target: ArrayLike) -> float:
    """Probability that a case of the target is less confident than one of the source; a tie counts one half.

    Args:
        source: confidences of the source's cases, shape (n,).
        target: of the target's cases, shape (m,).

    Returns:
        1 where confidence tells every case of the target, 0.5 where it tells nothing.

    Raises:
        ValueError: there is no case on one side, or a confidence is NaN.
    """
    one, other = _checked_confidence(source), _checked_confidence(target)
    below, up_to = np.searchsorted(np.sort(other), one, "left"), np.searchsorted(np.sort(other), one, "right")
    return float((below + up_to).mean() / (2 * other.size))


def fpr_at_tpr(source: ArrayLike, target: ArrayLike, *, tpr: float = 0.95) -> float:
    """Share of the target's cases that pass as source where at least `tpr` of the source's cases pass.

    The threshold is the highest confidence that lets enough of the source's cases pass; cases of just this confidence
    pass, on both sides.

    Raises:
        ValueError: there is no case on one side, a confidence is NaN, or `tpr` is not in (0, 1].
    """
    if not 0.0 < tpr <= 1.0:
        raise ValueError(f"a true positive rate of {tpr} is not in (0, 1]")
    one, other = _checked_confidence(source), _checked_confidence(target)
    needed = int(np.ceil(tpr * one.size - 1e-9))  # 0.95 * 20 is 19 cases, whatever its last bit
    threshold = np.sort(one)[one.size - needed]
    return float((other >= threshold).mean())


def _groups(confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of the cases from the most to the least confident, and where each run of equal ones starts in it."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _weighted_groups(confidence: ArrayLike, risk: ArrayLike, counts: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Number and summed risk of the cases of each confidence, shapes (b, groups), the most confident first."""
    c, r = _checked(confidence, risk)
    times = np.ones((1, c.size), np.int64) if counts is None else np.asarray(counts)
    if times.ndim != 2 or times.shape[1] != c.size or not (times.sum(axis=1) > 0).all():
        raise ValueError(f"counts of shape {times.shape} for {c.size} cases, or a resample without a case")
    order, first = _groups(c)
    times = times[:, order]
    lost = times * r[order]
    if first.size == c.size:
        return times, lost
    return np.add.reduceat(times, first, axis=1), np.add.reduceat(lost, first, axis=1)


def _checked(confidence: ArrayLike, risk: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    c, r = _checked_confidence(confidence), np.asarray(risk, float)
    if c.shape != r.shape:
        raise ValueError(f"confidence has shape {c.shape}, risk {r.shape}")
    if not np.isfinite(r).all() or (c == np.inf).any():
        raise ValueError("a risk is not finite, or a confidence is infinite")
    return c, r


def _checked_confidence(values: ArrayLike) -> np.ndarray:
    c = np.asarray(values, float)
    if c.ndim != 1 or not c.size or np.isnan(c).any():
        raise ValueError(f"confidences of shape {c.shape}; give one per case, without NaN")
    return c
