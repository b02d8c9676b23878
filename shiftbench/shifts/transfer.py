"""Contrast transfer: the signal equations made usable on real magnitude images, through soft tissue posteriors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import mr
from shiftbench.shifts.libraries import n4_bias
from shiftbench.shifts.parameters import relaxation_field_t
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.settings import check_acquisition

BINS = 256  # of the histogram that the mixture is fitted to
LOOK_UP = 1024  # grey values between the darkest and brightest class that shares are tabulated for
STARTS, ITERATIONS = 6, 200  # of the fit
FEWEST = 50  # voxels per class
APART = 2.0  # Ashman's D of neighbouring classes from which on a mixture is cleanly separated
SMALLEST_SHARE = 0.02  # of the body that a class must have in pure voxels


class TissueClass(NamedTuple):
    """A tissue that a class of grey values stands for: T1, T2 and T2* at (1.5 T, 3 T) in ms, and proton density."""

    name: str
    t1_ms: tuple[float, float]
    t2_ms: tuple[float, float]
    t2star_ms: tuple[float, float]
    pd: float


# From dark to bright on a T1-weighted image. Wright et al., MAGMA 21:121, 2008; Stanisz et al., Magn Reson Med 54:507,
# 2005; Peters et al., Magn Reson Imaging 25:748, 2007; CSF: typical.
BRAIN = (
    TissueClass("cerebrospinal fluid", (4300, 4300), (2000, 2000), (1000, 500), 1.0),
    TissueClass("grey matter", (1197, 1607), (95, 99), (84, 66), 0.82),
    TissueClass("white matter", (646, 838), (72, 69), (66.2, 53.2), 0.70),
)
ASSUMED = check_acquisition({"preset": "brain_t1_spgr"})  # what a T1-weighted image is taken to be


class Posteriors(NamedTuple):
    """Share of each class in each voxel (k, *s), and the grey value of each class (k,), from dark to bright."""

    shares: Tensor
    means: Tensor


class Mixture(NamedTuple):
    """Pure classes from dark to bright, and between neighbours the voxels that hold both: weights (2k - 1,)."""

    means: np.ndarray
    sds: np.ndarray
    weights: np.ndarray
    log_likelihood: float

    def densities(self, grey: np.ndarray) -> np.ndarray:
        """Density of grey values (n,) under each component, weighted, (2k - 1, n)."""
        x = (grey - self.means[:, None]) / self.sds[:, None]
        pure = np.exp(-(x**2) / 2) / (self.sds[:, None] * math.sqrt(2 * math.pi))
        blur = np.sqrt((self.sds[1:] ** 2 + self.sds[:-1] ** 2) / 2)[:, None]
        rise = ndtr((grey - self.means[:-1, None]) / blur) - ndtr((grey - self.means[1:, None]) / blur)
        return self.weights[:, None] * np.concatenate([pure, rise / np.diff(self.means)[:, None]])

    def shares(self, grey: np.ndarray) -> np.ndarray:
        """Expected share of each class in a voxel of such a grey value, (k, n)."""
        k = len(self.means)
        densities = self.densities(grey) + 1e-300
        posterior = densities / densities.sum(axis=0)
        brighter = np.clip((grey - self.means[:-1, None]) / np.diff(self.means)[:, None], 0, 1)
        out = posterior[:k].copy()
        out[:-1] += posterior[k:] * (1 - brighter)
        out[1:] += posterior[k:] * brighter
        return out


def tissue_posteriors(
    image: Tensor, classes: int, rng: np.random.Generator, *, body: Tensor | None = None
) -> Posteriors:
    """Expected share of each class of grey values in each voxel, classes from dark to bright.

    Inside the body, after correction of the shading (N4), the grey values without the lowest and highest half per cent
    are modelled as `classes` Gaussians and, between neighbours, as voxels that hold both of them in any proportion. A
    voxel beyond the mean of the darkest or brightest class belongs where that mean does. A voxel on the border of two
    tissues that are not neighbours in brightness looks like what is between them, and is taken for it.

    Args:
        image: magnitude (*s).
        classes: how many.
        rng: draws the starts of the fit.
        body: bool (*s); everything where it is None.

    Raises:
        OperatorError: there are too few voxels, or no contrast.
        NotApplicable: the grey values do not separate into so many classes: the mixture of one class less explains them
            as well (BIC), or neighbouring classes are closer than `APART`, or one is nearly empty.

    Reference:
        Santago and Gage, IEEE Trans Med Imaging 12:566, 1993; Ashman, Bird and Zepf, Astron J 108:2348, 1994.
    """
    inside = torch.ones_like(image, dtype=torch.bool) if body is None else body
    voxels = int(inside.sum())
    if classes < 2 or voxels < FEWEST * classes or float(image[inside].std()) == 0:
        problem = f"{voxels} voxels of this image do not make {classes} classes"
        raise OperatorError(problem, where="contrast transfer", remedy="use an image with tissue contrast")
    field = n4_bias(image.cpu().numpy(), inside.cpu().numpy())
    corrected = image / torch.from_numpy(field).to(image)
    found = _separated(corrected[inside].double().cpu().numpy(), classes, rng)
    low, high = float(found.means[0]), float(found.means[-1])
    table = torch.from_numpy(found.shares(np.linspace(low, high, LOOK_UP))).to(image)
    index = ((corrected - low) * ((LOOK_UP - 1) / (high - low))).round_().clamp_(0, LOOK_UP - 1).long()
    return Posteriors(table[:, index], torch.from_numpy(found.means).to(image))


def _separated(grey: np.ndarray, classes: int, rng: np.random.Generator) -> Mixture:
    """The mixture of grey values (n,), or a refusal where the classes are not apart."""
    low, high = np.percentile(grey, (0.5, 99.5))
    counts, edges = np.histogram(grey, BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    starts = np.sort(rng.uniform(0, 1, (STARTS, classes)), axis=1)
    found, fewer = (
        max((_fitted(centres, counts, np.quantile(grey, at[:k])) for at in starts), key=lambda m: m.log_likelihood)
        for k in (classes, classes - 1)
    )
    apart = np.diff(found.means) * math.sqrt(2) / np.hypot(found.sds[1:], found.sds[:-1])
    gain = 2 * (found.log_likelihood - fewer.log_likelihood) - 4 * math.log(counts.sum())  # 4 parameters per class
    if gain <= 0 or apart.min() < APART or found.weights[:classes].min() < SMALLEST_SHARE:
        raise NotApplicable(
            f"the grey values do not separate into {classes} tissues (the closest two are {apart.min():.2g} SD apart, "
            f"the smallest has {100 * found.weights[:classes].min():.2g} % of pure voxels)",
            where="contrast transfer",
            remedy="use an image with clear tissue contrast, or another operator",
        )
    return found


def _fitted(centres: np.ndarray, counts: np.ndarray, means: np.ndarray) -> Mixture:
    """The mixture of a histogram by expectation maximisation from starting means (k,)."""
    k, width = len(means), centres[-1] - centres[0]
    means = np.sort(means) + np.arange(k) * 1e-6 * width  # no two alike
    mixture = Mixture(means, np.full(k, width / (4 * k)), np.full(2 * k - 1, 1 / (2 * k - 1)), -math.inf)
    for _ in range(ITERATIONS):
        densities = mixture.densities(centres) + 1e-300
        total = densities.sum(axis=0)
        reached = float(counts @ np.log(total))
        belongs = densities / total * counts
        size = belongs.sum(axis=1) + 1e-12
        means = belongs[:k] @ centres / size[:k]
        spread = (belongs[:k] * (centres - means[:, None]) ** 2).sum(axis=1) / size[:k]
        if np.any(np.diff(means) < 1e-6 * width):
            return mixture._replace(log_likelihood=-math.inf)
        done = reached - mixture.log_likelihood < 1e-6 * abs(reached)
        mixture = Mixture(means, np.sqrt(spread).clip(min=width / BINS), size / size.sum(), reached)
        if done:
            break
    return mixture


def contrast_transfer(
    scan: Scan,
    tissues: Sequence[TissueClass],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    rng: np.random.Generator,
) -> Scan:
    """The scan as another acquisition would have shown it: I * sum_c p_c m_c S'_c / S_c / sum_c p_c m_c in the body.

    p_c is the expected share of tissue c in the voxel and m_c its grey value; S_c and S'_c are its signals before and
    after. In a voxel of one tissue that is I S'_c / S_c; in one of two it is what the two would give together (the
    mean of their ratios would draw a rim). Shading, lesions and texture stay; noise is scaled like the tissue it lies
    on, so SNR stays, and a change of it is `rician_noise`.

    Args:
        scan: magnitude of one channel.
        tissues: the classes that the image shows, from dark to bright under `before`.
        before: acquisition table of the image as it is.
        after: acquisition table wanted.
        rng: for `tissue_posteriors`.

    Raises:
        OperatorError: more than one channel, tissues that are not in the order of their brightness, or classes that
            cannot be told apart.
    """
    if len(scan.image) != 1:
        problem = f"it takes an image of one channel, not {len(scan.image)}"
        raise OperatorError(problem, where="contrast transfer", remedy="apply it to each channel")
    old, new = (_signals(tissues, table) for table in (before, after))
    if np.any(np.diff(old) <= 0):
        names = ", ".join(tissue.name for tissue in tissues)
        raise OperatorError(
            f"{names} do not get brighter in that order",
            where="contrast transfer",
            remedy="order them from dark to bright",
        )
    image, body = scan.image[0], scan.body
    shares, means = tissue_posteriors(image, len(tissues), rng, body=body)
    ratios = torch.as_tensor(new / old, dtype=image.dtype, device=image.device)
    ratio = torch.tensordot(means * ratios, shares, dims=1) / torch.tensordot(means, shares, dims=1)
    factor = torch.where(body, ratio, torch.ones_like(image))
    native = {}
    if "sigma" in scan.native:
        native["sigma"] = float(scan.native["sigma"]) * float(factor[scan.reference_mask].median())
    return scan.with_image((image * factor)[None], **native)


def contrast_transfer_flip(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """A T1-weighted brain at `value` % of its flip angle; 100 changes nothing.

    The image is taken for SPGR with TR 20 ms, TE 4 ms and 20 degrees at 1.5 T, of brain without skull and scalp: its
    classes from dark to bright for cerebrospinal fluid, grey and white matter.

    Raises:
        OperatorError: the grey values do not separate into three tissues.
    """
    if value == 100:
        return scan
    after = {**ASSUMED, "flip_deg": float(ASSUMED["flip_deg"]) * value / 100}
    return contrast_transfer(scan, BRAIN, ASSUMED, after, rng)


def contrast_transfer_field(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """A T1-weighted brain with the relaxation times of a field of `value` T; 1.5 changes nothing.

    The assumptions are those of `contrast_transfer_flip`. SNR and the transmit field stay as they are.

    Raises:
        OperatorError: the grey values do not separate into three tissues.
    """
    if value == ASSUMED["field_t"]:
        return scan
    return contrast_transfer(scan, BRAIN, ASSUMED, {**ASSUMED, "relaxation_t": value}, rng)


def log_contrast_change(before: Scan, after: Scan, value: float) -> float:
    """SD over the body of log(after / before): 0 for a gain, 0.1 for contrasts changed by about 10 %."""
    old, new = before.image[:, before.body], after.image[:, before.body]
    usable = (old > 0) & (new > 0)
    return float((new[usable] / old[usable]).double().log().std())


def _signals(tissues: Sequence[TissueClass], acquisition: Mapping[str, Any]) -> np.ndarray:
    """Signal of each tissue under an acquisition, float64 (k,); times follow a power law in the field."""
    doublings = math.log2(relaxation_field_t(acquisition) / 1.5)

    def times(name: str) -> np.ndarray:
        low, high = np.array([getattr(tissue, name) for tissue in tissues], float).T
        return low * (high / low) ** doublings

    maps = {"T1_ms": times("t1_ms"), "T2_ms": times("t2_ms"), "T2star_ms": times("t2star_ms")}
    return mr.signal({**maps, "PD": np.array([tissue.pd for tissue in tissues], float)}, acquisition)
