"""Measurements on test objects, as a physicist makes them on a scanner, none with the operators' own measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skimage.registration import phase_cross_correlation

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import OPERATORS, LabelPolicy, apply, value_at
from shiftbench.shifts.operator import Operator
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.steps import shifted
from shiftbench.types import Family

SEED = 11
KEEPS_MEAN = ("in_plane_resolution", "slice_thickness", "vendor_filter", "distortion")
IN_MM = ("bias_field", "in_plane_resolution", "slice_thickness", "distortion", "susceptibility_void")
# they add, remove or shade content on purpose, so that a registration would tell that and no displacement
NO_CENTROID = (
    *("wrap_around", "ct_fov_truncation", "spike", "ct_metal", "susceptibility_void"),
    *("gamma", "gamma_bright", "bias_field", "ct_beam_hardening"),
)


@dataclass(frozen=True)
class Check:
    """One measurement against what physics says.

    Attributes:
        name: what is measured.
        operator: on which operator.
        expected, measured, unit: the two numbers.
        allowed: largest distance, relative where `relative`.
    """

    name: str
    operator: str
    expected: float
    measured: float
    unit: str
    allowed: float
    relative: bool = True

    @property
    def off(self) -> float:
        """Distance of the two numbers, relative where the check is."""
        distance = abs(self.measured - self.expected)
        return distance / abs(self.expected) if self.relative else distance

    @property
    def passed(self) -> bool:
        """Whether the distance is allowed; NaN is not."""
        return bool(self.off <= self.allowed)


def checks(operators: list[str]) -> Iterator[Check]:
    """The checks that concern some operators."""
    for name, measurement in MEASUREMENTS.items():
        if name in operators:
            yield from measurement()
    for name in operators:
        operator = OPERATORS[name]
        if name in KEEPS_MEAN:
            yield from _mean_signal(operator)
        if name in IN_MM:
            yield from _grid_independence(operator)
        if _has_centroid(operator):
            yield from _centroid(operator)


def blob(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """A smooth head-like object of 400 with an inner core of 600 and a dark cyst, float32 (*s), centred in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    mesh = np.meshgrid(*axes, indexing="ij")
    extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    radius = np.sqrt(sum((m / (0.36 * e)) ** 2 for m, e in zip(mesh, extent, strict=True)))
    body = 400 / (1 + np.exp(np.clip(12.0 * (radius - 1), -50, 50)))
    core = 200 * np.exp(-0.5 * (radius / 0.35) ** 2)
    shift = [m - 0.12 * e for m, e in zip(mesh, extent, strict=True)]
    cyst = -250 * np.exp(-0.5 * sum((s / (0.07 * e)) ** 2 for s, e in zip(shift, extent, strict=True)))
    image = body + core + cyst
    return np.where(image < 1, 0, image).astype(np.float32)


def dots(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """A body of 300 with Gaussian dots of an SD of 1.8 mm, which a grid of 1.5 mm still samples, float32 (*s)."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    rng = np.random.default_rng(SEED)
    image = 300 * _separable([np.exp(-((a / (0.3 * e)) ** 4)) for a, e in zip(axes, extent, strict=True)])
    for _ in range(40):
        centre = [rng.uniform(-0.22, 0.22) * e for e in extent]
        image += 200 * _separable([np.exp(-0.5 * ((a - c) / 1.8) ** 2) for a, c in zip(axes, centre, strict=True)])
    return image.astype(np.float32)


def _separable(profiles: list[np.ndarray]) -> np.ndarray:
    """Outer product of one profile per axis, (*s)."""
    image = profiles[0]
    for profile in profiles[1:]:
        image = image[..., None] * profile
    return image


def _rician() -> Iterator[Check]:
    image = np.zeros((48, 96, 96), np.float32)
    image[:, 24:72, 24:72] = 500.0
    for snr in (40.0, 10.0):
        out = apply("rician_noise", image, value=snr, spacing_mm=(1.0, 1.0, 1.0), seed=SEED)
        sigma = 500.0 / snr
        air, tissue = out[image == 0], out[image > 0]
        yield Check("background mean", "rician_noise", math.sqrt(math.pi / 2) * sigma, air.mean(), "a.u.", 0.02)
        yield Check("background SD", "rician_noise", math.sqrt(2 - math.pi / 2) * sigma, air.std(), "a.u.", 0.02)
        yield Check("SNR in tissue", "rician_noise", snr, 500.0 / tissue.std(), "SNR", 0.05)
        expected = 500.0 * (1 + 0.5 / snr**2)  # first order of the Rician mean
        yield Check("mean signal in tissue", "rician_noise", expected, tissue.mean(), "a.u.", 0.01)


def _non_uniformity() -> Iterator[Check]:
    image = blob((48, 64, 64), (2.0, 2.0, 2.0))
    body = image > 200
    for percent in (20.0, 60.0):
        out = apply("bias_field", image, value=percent, spacing_mm=(2.0, 2.0, 2.0), seed=SEED)
        ratio = out[body] / image[body]
        low, high = np.percentile(ratio, (1, 99))
        yield Check("non-uniformity, 1st to 99th percentile", "bias_field", percent, 100 * (high - low), "%", 0.05)
        yield Check("gain, mean log ratio", "bias_field", 0.0, np.log(ratio).mean(), "", 0.02, relative=False)


def _slice_profile() -> Iterator[Check]:
    """A plane that rises by one slice in 40 pixels: along a row of one slice lies the edge response of the profile."""
    spacing, n = (1.0, 1.0, 3.0), 400
    z, y = np.meshgrid(np.arange(96.0), np.arange(float(n)), indexing="ij")
    slope = 0.1  # mm of height per mm along a row
    for thickness in (3.0, 5.0):
        height = slope * y + 28
        share = np.clip(z + 0.5 - height, 0, 1)  # exact share of a voxel of 1 mm above the plane
        volume = np.repeat(100 + 400 * share[:, :, None], 8, axis=2).astype(np.float32)
        scan = Scan(torch.from_numpy(volume)[None], spacing)
        cut = shifted(OPERATORS["slice_thickness"], thickness, scan, (SEED, "", "edge"))
        row = cut.image[0, cut.image.shape[1] // 2, :, 4].double().numpy()
        width = _half_width(np.abs(np.diff(row))) * slope
        yield Check("slice profile, slanted edge", "slice_thickness", thickness, width, "mm", 0.05)


def _point_spread() -> Iterator[Check]:
    """A point after a rectangular cut of k-space is sin(x) / x, whose FWHM is 1.207 pixels of the acquired size."""
    n, finer = 256, 16
    image = torch.zeros(1, n, n)
    image[0, n // 2, n // 2] = 1e4
    for pixel in (2.0, 3.0):
        cut = shifted(OPERATORS["in_plane_resolution"], pixel, Scan(image, (1.0, 1.0)), (SEED, "", "point"))
        row = np.fft.fftshift(np.fft.fft(cut.signal.image[0, n // 2].numpy()))
        profile = np.abs(np.fft.ifft(np.pad(row, (finer - 1) * n // 2)))
        width = _half_width(profile) / finer
        yield Check("point spread, FWHM of sin(x)/x", "in_plane_resolution", 1.207 * pixel, width, "mm", 0.05)


def _half_width(profile: np.ndarray) -> float:
    """FWHM of the main lobe of a profile in samples, linear between them."""
    peak = int(profile.argmax())
    half = profile[peak] / 2
    right = peak + int(np.argmax(profile[peak:] < half))
    left = peak - int(np.argmax(profile[peak::-1] < half))
    over = (profile[right - 1] - half) / (profile[right - 1] - profile[right])
    under = (profile[left + 1] - half) / (profile[left + 1] - profile[left])
    return float(right - 1 + over - (left + 1 - under))


def _ct_dose() -> Iterator[Check]:
    """Water with the noise of a full dose: the SD grows as the square root of the dose falls."""
    rng = np.random.default_rng(SEED)
    water = rng.normal(0, 10, (8, 192, 192)).astype(np.float32)
    water[:, :, :16] = -1000  # air, so that it is known to be CT
    for dose in (50.0, 10.0):
        scan = Scan(torch.from_numpy(water)[None], (5.0, 0.8, 0.8), "ct", {"sigma": 10.0})
        out = shifted(OPERATORS["ct_dose"], dose, scan, (SEED, "", "water")).image[0].numpy()
        measured = out[:, 24:168, 40:176].std()
        yield Check("noise in water", "ct_dose", 10 * math.sqrt(100 / dose), measured, "HU", 0.05)
        yield Check("CT number of water", "ct_dose", 0.0, out[:, 24:168, 40:176].mean(), "HU", 1.0, relative=False)


MEASUREMENTS: dict[str, Callable[[], Iterator[Check]]] = {
    "rician_noise": _rician,
    "bias_field": _non_uniformity,
    "slice_thickness": _slice_profile,
    "in_plane_resolution": _point_spread,
    "ct_dose": _ct_dose,
}


def _object(operator: Operator, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    image = blob(shape, spacing)
    return image * 2.5 - 1000 if _modality(operator) == "ct" else image


def _modality(operator: Operator) -> str:
    return "mr" if "mr" in operator.modalities else operator.modalities[0]


def _mean_signal(operator: Operator) -> Iterator[Check]:
    spacing, shape = (2.0, 1.0, 1.0), (40, 128, 128)
    image = _object(operator, spacing, shape)
    out = apply(operator.name, image, severity=2, spacing_mm=spacing, seed=SEED, modality=_modality(operator))
    yield Check("mean signal", operator.name, float(image.mean()), float(out.mean()), "a.u.", 0.01)


def _grid_independence(operator: Operator) -> Iterator[Check]:
    """The same object on a grid twice as fine in-plane: the operator has to do the same to it.

    Means over the finer pixels are smoother than the coarse ones, so the strength may differ by 15 %.
    """
    coarse, fine = (2.0, 1.5, 1.5), (2.0, 0.75, 0.75)
    shape = (40, 96, 96)
    effects = []
    for spacing, size in ((coarse, shape), (fine, (40, 192, 192))):
        image = dots(size, spacing)
        value = value_at(operator, 5)
        out = apply(operator.name, image, value=value, spacing_mm=spacing, seed=SEED, modality=_modality(operator))
        change = (out - image).astype(np.float64)
        effects.append(change.reshape(40, 96, size[1] // 96, 96, size[2] // 96).mean(axis=(2, 4)))
    one, other = effects
    agreement = float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    yield Check("same effect on a finer grid, correlation", operator.name, 1.0, agreement, "", 0.03)
    strength = float(np.linalg.norm(other) / np.linalg.norm(one))
    yield Check("same effect on a finer grid, strength", operator.name, 1.0, strength, "x", 0.15)


def _has_centroid(operator: Operator) -> bool:
    ordinary = operator.family is Family.ACQUISITION and operator.policy is LabelPolicy.INVARIANT
    return (
        ordinary and operator.kind == "image" and operator.name not in NO_CENTROID and "maps" not in operator.requires
    )


def _centroid(operator: Operator) -> Iterator[Check]:
    """Displacement of the image against its labels, which stay: sub-voxel registration of before and after."""
    modality = _modality(operator)
    flat = modality in ("rgb", "grey")
    spacing, shape = ((1.0, 1.0), (128, 128)) if flat else ((1.5, 1.0, 1.0), (32, 128, 128))
    image = _object(operator, spacing, shape)
    if modality == "rgb":
        image = np.stack([image * 0.3, image * 0.4, image * 0.25])
    try:
        out = apply(operator.name, image, severity=3, spacing_mm=spacing, seed=SEED, modality=modality)
    except (NotApplicable, OperatorError):
        return
    pair = [x.mean(axis=0) if modality == "rgb" else x for x in (image, out)]
    displacement, _, _ = phase_cross_correlation(*pair, upsample_factor=50, normalization=None)
    yield Check("image against labels", operator.name, 0.0, float(np.abs(displacement).max()), "voxel", 0.1, False)
