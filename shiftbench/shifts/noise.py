"""Operators on noise beyond the plain Rician one: parallel imaging, arrays of coils, cameras."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.errors import NotApplicable
from shiftbench.shifts.gaussian import normals
from shiftbench.shifts.intensity import add_complex_noise, bounds, noise_to_add
from shiftbench.shifts.ranks import inside, median
from shiftbench.shifts.scan import Scan

COILS = 16  # elements of the receive array, on a circle around the body
ARRAY_RADIUS = 0.55  # of that circle, over the body's largest in-plane extent
LOOP_RADIUS = 0.1  # of one element, likewise
COARSE = 48  # points per axis at which the g-factor, which is smooth, is computed
READ_NOISE = 0.2  # share of the variance of a camera's noise that does not depend on the light


def parallel_imaging(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image as reconstructed from every `value`-th line (SENSE): noise grows by g(x) sqrt(R); 1 changes nothing.

    The g-factor is that of a circular array of 16 loops around the body, turned by a random angle, with the body's
    extent along the phase-encoding axis aliased R-fold; R need not be whole. It lies in the geometry of the coils,
    in mm, and is the same in every slice. What the noise already is counts: only the growth is added.

    Raises:
        NotApplicable: there is no noise to amplify.

    Reference:
        Pruessmann et al., SENSE: sensitivity encoding for fast MRI, Magn Reson Med 42:952, 1999.
    """
    if value == 1:
        return scan
    if not bool((scan.sigma > 0).any()):
        raise NotApplicable("the image has no noise", where="parallel_imaging", remedy="add noise first")
    growth = g_factor(scan.body, scan.spacing_or_pixels, value, float(rng.uniform(0, 2 * math.pi))).square() * value
    added = (growth - 1).clamp_(min=0).sqrt_().expand(1, *scan.shape) * scan.sigma.reshape(-1, *(1,) * scan.ndim)
    native = {}
    if "sigma" in scan.native:
        native["sigma"] = scan.native["sigma"] * float(inside(growth.expand(scan.shape), scan.body).mean().sqrt())
    return add_complex_noise(scan, added, rng, **native)


def g_factor(body: Tensor, spacing: tuple[float, ...], reduction: float, angle: float = 0.0) -> Tensor:
    """Geometry factor (h, w) of SENSE with `reduction`, at least 1; rows are the phase-encoding direction.

    Args:
        body: bool (*s).
        spacing: mm per axis.
        reduction: factor of undersampling, 1 or more, whole or not.
        angle: by which the array is turned.
    """
    low, high = (np.array(b[-2:], float) for b in bounds(body))
    mm = np.array(spacing[-2:])
    extent = (high - low + 1) * mm
    half = extent / 2
    y, x = np.meshgrid(*(np.linspace(-h, h, COARSE) for h in half), indexing="ij")  # from the body's middle, in mm
    fold = extent[0] / reduction
    shifts = fold * np.arange(-math.ceil(reduction), math.ceil(reduction) + 1)
    shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]  # the point itself first
    rows = y[..., None] + shifts  # (coarse, coarse, replicas)
    present = np.abs(rows) <= half[0] * (1 + 1e-9)
    sensitivity = _sensitivity(rows, np.broadcast_to(x[..., None], rows.shape), max(extent), angle) * present[..., None]
    gram = np.einsum("...ic,...jc->...ij", sensitivity.conj(), sensitivity)
    index = np.arange(len(shifts))
    own = gram[..., 0, 0].real.copy()
    gram[..., index, index] += ~present
    g = np.sqrt(np.maximum(np.linalg.inv(gram)[..., 0, 0].real * own, 1.0))
    middle = (low + high) / 2
    at = [
        torch.from_numpy(((np.arange(n) - c) * d / h).astype(np.float32))
        for n, c, d, h in zip(body.shape[-2:], middle, mm, half, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*at, indexing="ij")[::-1], dim=-1)[None].to(body.device)
    coarse = torch.from_numpy(g.astype(np.float32)).to(body.device)[None, None]
    return functional.grid_sample(coarse, grid, padding_mode="border", align_corners=True)[0, 0]


def _sensitivity(y: np.ndarray, x: np.ndarray, extent: float, angle: float) -> np.ndarray:
    """Complex receive sensitivity of every element at y, x in mm, (..., coils): a loop's field on its axis."""
    turn = angle + 2 * np.pi * np.arange(COILS) / COILS
    dy = y[..., None] - ARRAY_RADIUS * extent * np.sin(turn)
    dx = x[..., None] - ARRAY_RADIUS * extent * np.cos(turn)
    strength = (LOOP_RADIUS * extent) ** 3 / (dy**2 + dx**2 + (LOOP_RADIUS * extent) ** 2) ** 1.5
    return strength * np.exp(1j * np.arctan2(dy, dx))


def non_central_chi(image: Tensor, sigma: Tensor, coils: int, rng: np.random.Generator) -> Tensor:
    """Magnitude image (c, *s) with the noise of a sum of squares over `coils` channels, SD `sigma` (c,) in each part.

    The coils' signals are one vector of length x in a space of 2 `coils` dimensions with a normal draw in each, so
    the length is sqrt((x + n)^2 + chi^2) with chi^2 of 2 `coils` - 1 degrees of freedom; one coil is the Rician case.

    Reference:
        Constantinides, Atalar and McVeigh, Magn Reson Med 38:852, 1997.
    """
    along = normals(rng, image.shape, image.device)
    across = rng.standard_gamma(coils - 0.5, tuple(image.shape), dtype=np.float32)  # half a chi squared
    sigma = sigma.reshape(-1, *(1,) * (image.ndim - 1))
    return torch.hypot(image + sigma * along, sigma * torch.from_numpy(across).to(image.device).mul_(2).sqrt_())


def camera_noise(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The photograph with Poisson-Gaussian noise so that the SNR at its reference grey is `value`; infinity: as it is.

    The variance is that of the light (proportional to the signal) and of reading out (constant, a fifth of the whole
    at the reference). The reference is the median of the grey signal in the body, and every channel has the same
    noise: a grey image is never noised as three channels and averaged. Noise that is there counts. Values stay at or
    above 0. The draw is the same for every value.

    Raises:
        NotApplicable: the image is noisier than that already.

    Reference:
        Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data, IEEE Trans
        Image Process 17:1737, 2008.
    """
    if math.isinf(value):
        return scan
    grey = torch.tensor(median(inside(_grey(scan), scan.reference_mask)), device=scan.device)
    added = noise_to_add(scan, (grey / value).expand(len(scan.image)), "camera_noise")
    draw = normals(rng, scan.image.shape, scan.device)
    light = (scan.image * ((1 - READ_NOISE) / grey)).clamp_(min=0).add_(READ_NOISE).sqrt_()
    noisy = draw.mul_(light).mul_(added.reshape(-1, *(1,) * scan.ndim)).add_(scan.image)
    return scan.with_image(noisy.clamp_(min=0))


def _grey(scan: Scan) -> Tensor:
    """Mean of the channels, (*s)."""
    return scan.image[0] if len(scan.image) == 1 else scan.image.mean(dim=0)


def noise_gain(before: Scan, after: Scan, value: float) -> float:
    """Root mean square over the body of the noise of the output over that of the input, first channel."""
    signal = before.image[0]
    bright = before.body & (signal > before.reference_signal[0] / 2)
    added = (after.image[0][bright] - signal[bright]).double().square().mean()
    return float((1 + added / before.sigma[0].double() ** 2).sqrt())


def camera_snr(before: Scan, after: Scan, value: float) -> float:
    """SNR at the reference grey: the noise that was added is brought there by its dependence on the signal."""
    grey = before.image.mean(dim=0)[before.reference_mask].median()
    bright = before.body & (before.image > grey / 2).all(dim=0) & (before.image < 250).all(dim=0)
    if not bool(bright.any()):
        bright = before.body
    light = (1 - READ_NOISE) * before.image[:, bright] / grey + READ_NOISE
    added = ((after.image - before.image)[:, bright].double().square() / light).mean()
    native = before.sigma.double().square().mean()
    return float(grey / (added + native).sqrt())
