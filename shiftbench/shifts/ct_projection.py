"""CT in projections: parallel-beam Radon transform, filtered back-projection, and what only arises between the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import edt
import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import ct
from shiftbench.shifts.ct_image import AIR_HU, kernel_mtf50, mtf, noise_sigma
from shiftbench.shifts.scan import Scan

CHUNK_SAMPLES = 2**23  # bilinear samples held at a time
CM = 0.1  # cm per mm
ELECTRONIC_QUANTA = 3.0  # SD of the electronic noise of a detector bin, in quanta
FEWEST_QUANTA = 1.0  # counts are cut here before the logarithm
LEAST_TRANSMISSION = 1e-6  # scatter and dark current behind metal
BONE_FROM_HU, BONE_HU = 150.0, 1600.0  # soft tissue below, compact bone above, mixtures between
METAL_MM = 8.0  # radius of an implant's rod
METAL_DEPTH_MM = 12.0  # of its surface under the skin, at least
LARGEST_HU = 3071.0  # of 12 bits
RIM_MM = (4.0, 16.0)  # depth under the skin of the rim of a cup
CORE_SHARE = 0.7  # of the largest depth, where its bottom begins
PERPENDICULAR_MM = 1e6  # distance of slices for depths within a slice


def detector(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, float]:
    """Number and distance in mm of detector bins: one per pixel, over the diagonal of the field of view."""
    step = min(spacing[-2:])
    return math.ceil(math.hypot(shape[-2] * spacing[-2], shape[-1] * spacing[-1]) / step) + 2, step


def view_angles(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Angles in radians over half a turn, as many as the rim of the field of view needs, (a,)."""
    n = math.ceil(math.pi / 2 * max(shape[-2:]))
    return torch.arange(n, device=device) * (math.pi / n)


def project(image: Tensor, spacing: tuple[float, ...], angles: Tensor) -> Tensor:
    """Line integrals (b, a, n) along parallel rays, in units of `image` (b, h, w) times mm; 0 outside the image.

    Bin k of n lies at t = (k - (n - 1) / 2) * step from the centre of the image, along (cos, sin) of the angle, with
    columns to the right and rows downwards. Rays are sampled at the bins' distance with bilinear interpolation.
    """
    n, step = detector(tuple(image.shape), spacing)
    at = (torch.arange(n, device=image.device) - (n - 1) / 2) * step
    half = [(size - 1) / 2 * mm for size, mm in zip(image.shape[-2:], spacing[-2:], strict=True)]
    out = image.new_empty(len(image), len(angles), n)
    for views in _chunks(len(angles), len(image) * n * n):
        c, s = (f(angles[views])[:, None, None] for f in (torch.cos, torch.sin))
        x, y = at * c - at[:, None] * s, at * s + at[:, None] * c  # (views, ray, bin)
        grid = torch.stack((x / half[1], y / half[0]), dim=-1)
        planes = image[None].expand(len(grid), *image.shape)
        sampled = torch.nn.functional.grid_sample(planes, grid, padding_mode="zeros", align_corners=True)
        out[:, views] = sampled.sum(dim=2).transpose(0, 1) * step
    return out


def backproject(rows: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor) -> Tensor:
    """Sum over views of `rows` (b, a, n) at each pixel's place on the detector, linear between bins, (b, h, w)."""
    n, step = rows.shape[-1], detector(shape, spacing)[1]
    y, x = (
        (torch.arange(size, device=rows.device) - (size - 1) / 2) * mm
        for size, mm in zip(shape[-2:], spacing[-2:], strict=True)
    )
    out = rows.new_zeros(len(rows), *shape[-2:])
    for views in _chunks(len(angles), len(rows) * len(x) * len(y)):
        c, s = (f(angles[views])[:, None, None] for f in (torch.cos, torch.sin))
        t = (x * c + y[:, None] * s) / ((n - 1) / 2 * step)
        grid = torch.stack((t, torch.zeros_like(t)), dim=-1)
        planes = rows[:, views].transpose(0, 1)[:, :, None]  # (views, b, 1, n)
        out += torch.nn.functional.grid_sample(planes, grid, padding_mode="zeros", align_corners=True).sum(dim=0)
    return out


def ramp_kernel(n: int, step: float, mtf50: float | None, device: torch.device | None = None) -> Tensor:
    """The reconstruction filter in space, on 2n samples around 0 in the order of `fft`, in 1 / mm.

    Band-limited ramp times the MTF of a kernel (`mtf50` in line pairs per mm, None for the bare ramp).

    Reference:
        Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, equation 3.61.
    """
    size = 2 * n
    at = torch.fft.fftfreq(size, d=1 / size, device=device).round()
    kernel = torch.where(at % 2 != 0, -1 / (math.pi * at * step).square(), torch.zeros_like(at))
    kernel[0] = 1 / (4 * step**2)
    if mtf50 is not None:
        window = mtf(torch.fft.rfftfreq(size, d=step, device=device), mtf50)
        kernel = torch.fft.irfft(torch.fft.rfft(kernel) * window, n=size)
    return kernel * step


def _convolved(rows: Tensor, kernel: Tensor) -> Tensor:
    size = len(kernel)
    return torch.fft.irfft(torch.fft.rfft(rows, n=size) * torch.fft.rfft(kernel), n=size)[..., : rows.shape[-1]]


def reconstruct(
    rows: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor, *, mtf50: float | None = None
) -> Tensor:
    """Filtered back-projection of line integrals (b, a, n) as `project` gives them, (b, h, w)."""
    n, step = detector(shape, spacing)
    filtered = _convolved(rows, ramp_kernel(n, step, mtf50, rows.device))
    return backproject(filtered, shape, spacing, angles) * (math.pi / len(angles))


def noise_variance(
    variance: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor, *, mtf50: float | None = None
) -> Tensor:
    """Variance (b, h, w) of `reconstruct` for independent noise of `variance` (b, a, n) in the line integrals.

    Linear interpolation between bins is counted by its mean over positions: 2/3 + rho/3, with rho the correlation of
    neighbouring bins after the filter.
    """
    n, step = detector(shape, spacing)
    kernel = ramp_kernel(n, step, mtf50, variance.device)
    rho = float((kernel * kernel.roll(1)).sum() / kernel.square().sum())
    spread = _convolved(variance, kernel.square())
    total = backproject(spread, shape, spacing, angles) * (math.pi / len(angles)) ** 2
    return total * (2 + rho) / 3


def _chunks(n: int, samples_each: int) -> Iterator[slice]:
    size = max(1, CHUNK_SAMPLES // samples_each)
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def _tube(scan: Scan) -> float:
    return float(scan.native.get("kvp", 120.0))


def _planes(scan: Scan) -> Tensor:
    """Attenuation relative to water of all slices, (c*d, h, w), not negative."""
    return (1 + scan.image.flatten(0, -3) / -AIR_HU).clamp(min=0)


def _in_hu(relative: Tensor, scan: Scan) -> Tensor:
    return (relative * -AIR_HU).reshape(scan.image.shape)


def projection_dose(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan at `value` % of its dose, by counts in the detector; 100 changes nothing.

    The image is projected; the number of quanta without a patient is the one for which the noise in the body has the
    SD of the scan (root mean square). Fewer quanta are drawn from those: the share a of a Poisson variable of mean I
    has mean a I, and a (1 - a) I of variance is added, with electronic noise that does not fall with the dose. Counts
    are normal of that mean and variance, so that the draw is the same for every value; they are cut at one quantum
    before the logarithm. The difference of the two sinograms is reconstructed and added, so that the image itself is
    not blurred. Noise is higher in the centre, streaks follow the longest paths.

    Raises:
        OperatorError: the image has no noise, so that its dose means nothing.

    Reference:
        Zeng et al., A simple low-dose x-ray CT simulation from high-dose scan, IEEE Trans Nucl Sci 62:2226, 2015.
    """
    if value == 100:
        return scan
    sigma, share = noise_sigma(scan), value / 100
    if not bool((sigma > 0).all()):
        raise OperatorError(
            "the image has no noise to state a dose by", where="ct_projection_dose", remedy="use a measured scan"
        )
    shape, spacing, kernel = scan.shape, scan.spacing_or_pixels, kernel_mtf50(scan)
    angles = view_angles(shape, scan.device)
    water = ct.attenuation("water", _tube(scan)) * CM  # per mm
    paths = project(_planes(scan), spacing, angles) * water
    unit = noise_variance(paths.exp(), shape, spacing, angles, mtf50=kernel) / water**2  # for one quantum
    quanta = float(_in_hu(unit, scan)[:, scan.body].mean() * -AIR_HU / sigma.square().mean())
    full = quanta * (-paths).exp()
    spread = share * (1 - share) * full + (1 - share**2) * ELECTRONIC_QUANTA**2
    draw = torch.from_numpy(rng.standard_normal(tuple(paths.shape), dtype=np.float32)).to(scan.device)
    counts = (share * full + spread.sqrt() * draw).clamp(min=FEWEST_QUANTA)
    change = -(counts / (share * quanta)).log() - paths
    added = reconstruct(change, shape, spacing, angles, mtf50=kernel) / water
    return scan.with_image(scan.image + _in_hu(added, scan), sigma=float(sigma[0]) / math.sqrt(share))


def polyenergetic(lengths: Mapping[str, Tensor], kvp: float) -> Tensor:
    """-log of the detector's signal behind `lengths` in cm of each material, relative to that without a patient."""
    energy, share = ct.spectrum(kvp)
    passed = torch.zeros_like(next(iter(lengths.values())))
    mu = {name: ct.linear_attenuation(name, energy) for name in lengths}
    for i, weight in enumerate(share):
        passed += float(weight) * torch.exp(-sum(float(mu[name][i]) * length for name, length in lengths.items()))
    return -(passed + LEAST_TRANSMISSION).log()


def _lengths(scan: Scan, angles: Tensor) -> dict[str, Tensor]:
    """Path in cm through water and through bone of every ray, from the CT numbers."""
    relative, hu = _planes(scan), scan.image.flatten(0, -3)
    bone = ((hu - BONE_FROM_HU) / (BONE_HU - BONE_FROM_HU)).clamp(0, 1)
    water = (relative - bone * (1 + BONE_HU / -AIR_HU)).clamp(min=0)
    both = project(torch.cat((water, bone)), scan.spacing_or_pixels, angles) * CM
    return {"water": both[: len(hu)], "bone": both[len(hu) :]}


def beam_hardening(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with cupping of `value` HU, and the dark bands between bones that come with it; 0 changes nothing.

    The artefact is that of a polyenergetic beam through water and bone without any correction, in the size of a share
    of it: what a correction that is too weak leaves. Its mean attenuation is that of the scan. Cupping is the mean of
    the rim (4 to 16 mm deep) less that of the core.

    Raises:
        NotApplicable: the body is too small to harden the beam so much.

    Reference:
        Joseph and Spital, A method for correcting bone induced artifacts in computed tomography scanners,
        J Comput Assist Tomogr 2:100, 1978.
    """
    if value == 0:
        return scan
    angles = view_angles(scan.shape, scan.device)
    measured = polyenergetic(_lengths(scan, angles), _tube(scan))
    artefact = _nonlinear_part(measured, project(_planes(scan), scan.spacing_or_pixels, angles), scan, angles)
    return _scaled(scan, artefact, value, cupping(artefact, scan), "ct_beam_hardening", "cupping")


def _nonlinear_part(measured: Tensor, path: Tensor, scan: Scan, angles: Tensor) -> Tensor:
    """Error in HU (c, *s) of reconstructing `measured` as if it were proportional to `path` (relative to water, mm)."""
    factor = float((measured * path).sum() / path.square().sum())  # effective attenuation of water, per mm
    error = reconstruct(measured / factor - path, scan.shape, scan.spacing_or_pixels, angles, mtf50=kernel_mtf50(scan))
    return _in_hu(error, scan)


def _scaled(scan: Scan, artefact: Tensor, value: float, largest: float, where: str, what: str) -> Scan:
    if value > largest:
        raise NotApplicable(
            f"{what} of {value:g} HU was asked of a body that makes {max(largest, 0.0):.3g} HU",
            where=where,
            remedy="ask for less",
        )
    return scan.with_image(scan.image + artefact * (value / largest))


def depth_mm(scan: Scan) -> Tensor:
    """Depth in mm under the surface of the body within each slice, (*s), 0 outside."""
    body = scan.body.cpu().numpy()
    spacing = scan.spacing_or_pixels if scan.ndim == 2 else (PERPENDICULAR_MM, *scan.spacing_or_pixels[1:])
    return torch.from_numpy(edt.edt(np.ascontiguousarray(body), anisotropy=spacing, black_border=True)).to(scan.device)


def cupping(change: Tensor, scan: Scan) -> float:
    """Mean of `change` (c, *s) in the rim of the body less that in its core, in HU; 0 where the body is too thin."""
    depth = depth_mm(scan)
    deepest = float(depth.max())
    rim = (depth >= RIM_MM[0]) & (depth <= min(RIM_MM[1], deepest / 2))
    core = depth >= CORE_SHARE * deepest
    return float(change[:, rim].mean() - change[:, core].mean()) if bool(rim.any()) else 0.0


def cupping_hu(before: Scan, after: Scan, value: float) -> float:
    """Cupping in HU that was added."""
    return cupping(after.image - before.image, before)


def metal(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan of a patient with two rods of titanium along the slice axis, with streaks of `value` HU; 0 is none.

    Streaks are those of a polyenergetic beam through water, bone and metal beyond what metal adds in proportion to its
    thickness, scaled to a root mean square of `value` HU in the body outside the rods (a correction leaves a part of
    them). Chance places one rod, the other is its mirror image across the body; they are the same for every value.

    Raises:
        NotApplicable: the body is too small for the rods, or they do not make as strong streaks.

    Reference:
        De Man et al., Metal streak artifacts in X-ray computed tomography: a simulation study, IEEE Trans Nucl Sci
        46:691, 1999.
    """
    where = float(rng.uniform())
    if value == 0:
        return scan
    rods = _rods(scan, where)
    angles = view_angles(scan.shape, scan.device)
    lengths = _lengths(scan, angles)
    path = project(rods[None], scan.spacing_or_pixels, angles)
    without = polyenergetic(lengths, _tube(scan))
    extra = polyenergetic({**lengths, "titanium": (path * CM).expand_as(without)}, _tube(scan)) - without
    water = ct.attenuation("water", _tube(scan)) * CM
    factor = (extra * path).sum() / (path.square().sum() * len(extra))
    error = reconstruct(extra - factor * path, scan.shape, scan.spacing_or_pixels, angles, mtf50=kernel_mtf50(scan))
    streaks = _in_hu(error / water, scan)
    largest = float(streaks[:, scan.body & (rods == 0)].square().mean().sqrt())
    shaded = _scaled(scan, streaks, value, largest, "ct_metal", "streaks")
    return shaded.with_image(torch.lerp(shaded.image, torch.full_like(shaded.image, LARGEST_HU), rods))


def _rods(scan: Scan, where: float) -> Tensor:
    """Share of each in-plane pixel that is metal, (h, w), of a rod and its mirror image across the body."""
    depth = depth_mm(scan)
    deep = depth if depth.ndim == 2 else depth.median(dim=0).values
    places = torch.nonzero(deep >= METAL_MM + METAL_DEPTH_MM)
    if not len(places):
        raise NotApplicable(
            f"rods of {2 * METAL_MM:g} mm were asked of a body that is {2 * float(deep.max()):.3g} mm thick",
            where="ct_metal",
            remedy="leave out this case",
        )
    row, column = places[int(where * len(places))].tolist()
    columns = torch.nonzero((deep > 0).any(dim=0)).flatten()
    mirrored = int(columns[0]) + int(columns[-1]) - column
    y, x = (torch.arange(n, device=scan.device) for n in scan.shape[-2:])
    dy, dx = scan.spacing_or_pixels[-2:]
    share = [
        (0.5 + (METAL_MM - torch.hypot((y[:, None] - row) * dy, (x - at) * dx)) / min(dy, dx)).clamp(0, 1)
        for at in (column, mirrored)
    ]
    return torch.maximum(*share)


def streak_hu(before: Scan, after: Scan, value: float) -> float:
    """Root mean square change in HU inside the body, outside voxels that have become metal."""
    change = (after.image - before.image)[:, before.body]
    return float(change[after.image[:, before.body] < LARGEST_HU / 2].square().mean().sqrt())
