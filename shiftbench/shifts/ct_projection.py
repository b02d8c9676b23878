"""Operators on CT that arise in projections: photon starvation, beam hardening, metal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import edt
import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import ct
from shiftbench.shifts.ct_image import AIR_HU, kernel_mtf50, noise_sigma
from shiftbench.shifts.gaussian import normals
from shiftbench.shifts.radon import noise_variance, project, reconstruct, view_angles
from shiftbench.shifts.scan import Scan

CM = 0.1  # cm per mm
ELECTRONIC_SHARE = 2e-5  # variance of the electronic noise in quanta, of the quanta without a patient at full dose
FEWEST_SHARE = 2e-6  # counts are cut at this share of the quanta without a patient before the logarithm
LEAST_TRANSMISSION = 1e-6  # scatter and dark current behind metal
BONE_FROM_HU, BONE_HU = 150.0, 1600.0  # soft tissue below, compact bone above, mixtures between
BONE_RELATIVE = 1 + BONE_HU / 1000  # attenuation of compact bone relative to water
BARE_FILTER_CM = 0.25  # of aluminium: the beam of a scanner without added filter, which hardens most
METAL_MM = 10.0  # radius of an implant's rod
METAL_APART_MM = 50.0  # from the axis of one rod to the other's, at least
METAL_DEPTH_MM = 12.0  # of its surface under the skin, at least
LARGEST_HU = 3071.0  # of 12 bits: metal, and every voxel that it has a tenth of
RIM_MM = (4.0, 16.0)  # depth under the skin of the rim of a cup
CORE_SHARE = 0.7  # of the largest depth, where its bottom begins
PERPENDICULAR_MM = 1e6  # distance of slices for depths within a slice


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
    spread = share * (1 - share) * full + (1 - share**2) * ELECTRONIC_SHARE * quanta
    draw = normals(rng, paths.shape, scan.device)
    counts = (share * full + spread.sqrt() * draw).clamp(min=FEWEST_SHARE * quanta)
    change = -(counts / (share * quanta)).log() - paths
    added = reconstruct(change, shape, spacing, angles, mtf50=kernel) / water
    return scan.with_image(scan.image + _in_hu(added, scan), sigma=float(sigma[0]) / math.sqrt(share))


def polyenergetic(lengths: Mapping[str, Tensor], kvp: float, filter_cm: float = ct.FILTER_CM) -> Tensor:
    """-log of the detector's signal behind `lengths` in cm of each material, relative to that without a patient."""
    energy, share = ct.spectrum(kvp, filter_cm)
    passed = torch.zeros_like(next(iter(lengths.values())))
    mu = {name: ct.linear_attenuation(name, energy) for name in lengths}
    for i, weight in enumerate(share):
        path = torch.stack([float(mu[name][i]) * length for name, length in lengths.items()]).sum(dim=0)
        passed += float(weight) * torch.exp(-path)
    return -(passed + LEAST_TRANSMISSION).log()


def _lengths(scan: Scan, angles: Tensor, *more: Tensor) -> dict[str, Tensor]:
    """Path in cm through water and through bone of every ray, from the CT numbers, and through `more` (1, h, w)."""
    relative, hu = _planes(scan), scan.image.flatten(0, -3)
    bone = ((hu - BONE_FROM_HU) / (BONE_HU - BONE_FROM_HU)).clamp(0, 1)
    water = (relative - bone * BONE_RELATIVE).clamp(min=0)
    paths = project(torch.cat((water, bone, *more)), scan.spacing_or_pixels, angles).clamp_(min=0).mul_(CM)
    names = ("water", "bone", "steel")[: 2 + len(more)]
    return dict(zip(names, paths.split([len(hu), len(hu), *(1 for _ in more)]), strict=True))


def beam_hardening(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with cupping of `value` HU, and the dark bands between bones that come with it; 0 changes nothing.

    The artefact is that of a lightly filtered polyenergetic beam through water and bone without any correction, in the
    size of a share of it: what a correction that is too weak leaves. Its mean attenuation is that of the scan. Cupping
    is the mean of the rim (4 to 16 mm deep) less that of the core.

    Raises:
        NotApplicable: the body is too small to harden the beam so much.

    Reference:
        Joseph and Spital, A method for correcting bone induced artifacts in computed tomography scanners,
        J Comput Assist Tomogr 2:100, 1978.
    """
    if value == 0:
        return scan
    angles = view_angles(scan.shape, scan.device)
    lengths = _lengths(scan, angles)
    measured = polyenergetic(lengths, _tube(scan), BARE_FILTER_CM)
    path = (lengths["water"] + lengths["bone"] * BONE_RELATIVE) / CM
    factor = float((measured * path).sum() / path.square().sum())  # effective attenuation of water, per mm
    kernel = kernel_mtf50(scan)
    error = reconstruct(measured / factor - path, scan.shape, scan.spacing_or_pixels, angles, mtf50=kernel)
    artefact = _in_hu(error, scan)
    return _scaled(scan, artefact, value, cupping(artefact, scan), "ct_beam_hardening", "cupping")


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
    """The scan of a patient with two rods of steel along the slice axis, with streaks of `value` HU; 0 is none.

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
    lengths = _lengths(scan, angles, rods[None])
    path = lengths["steel"] / CM
    lengths["steel"] = lengths["steel"].expand_as(lengths["water"])
    without = polyenergetic({name: lengths[name] for name in ("water", "bone")}, _tube(scan))
    extra = polyenergetic(lengths, _tube(scan)) - without
    water = ct.attenuation("water", _tube(scan)) * CM
    factor = (extra * path).sum() / (path.square().sum() * len(extra))
    error = reconstruct(extra - factor * path, scan.shape, scan.spacing_or_pixels, angles, mtf50=kernel_mtf50(scan))
    streaks = _in_hu(error / water, scan)
    steel = -AIR_HU * (ct.attenuation("steel", _tube(scan)) * CM / water - 1)

    def implanted(image: Tensor) -> Tensor:
        return torch.lerp(image, torch.full_like(image, steel), rods).clamp(max=LARGEST_HU)

    away = scan.body & ~_near(implanted(scan.image)[0] >= LARGEST_HU)
    largest = float(streaks[:, away].square().mean().sqrt())
    shaded = _scaled(scan, streaks, value, largest, "ct_metal", "streaks")
    return shaded.with_image(implanted(shaded.image))


def _rods(scan: Scan, where: float) -> Tensor:
    """Share of each in-plane pixel that is metal, (h, w), of a rod and its mirror image across the body."""
    depth, spacing = depth_mm(scan), scan.spacing_or_pixels
    deep = depth if depth.ndim == 2 else depth.median(dim=0).values
    columns = torch.nonzero((deep > 0).any(dim=0)).flatten()
    middle = int(columns[0] + columns[-1]) if len(columns) else 0  # twice the column of the midline
    at = torch.arange(scan.shape[-1], device=scan.device)
    apart = (2 * at - middle).abs() * spacing[-1] >= METAL_APART_MM
    beside = deep[:, (middle - at).clamp(0, len(at) - 1)]
    places = torch.nonzero((torch.minimum(deep, beside) >= METAL_MM + METAL_DEPTH_MM) & apart)
    if not len(places):
        raise NotApplicable(
            f"two rods of {2 * METAL_MM:g} mm were asked of a body that is {2 * float(deep.max()):.3g} mm thick",
            where="ct_metal",
            remedy="leave out this case",
        )
    row, column = places[int(where * len(places))].tolist()
    y, x = (torch.arange(n, device=scan.device) for n in scan.shape[-2:])
    share = [
        (0.5 + (METAL_MM - torch.hypot((y[:, None] - row) * spacing[-2], (x - c) * spacing[-1])) / min(spacing[-2:]))
        for c in (column, middle - column)
    ]
    return torch.maximum(*share).clamp(0, 1)


def _near(metal: Tensor) -> Tensor:
    """The mask (*s) grown by a pixel within slices: voxels that metal is a part of, and those beside it."""
    planes = metal.reshape(-1, 1, *metal.shape[-2:]).float()
    return (torch.nn.functional.max_pool2d(planes, 3, stride=1, padding=1) > 0).reshape(metal.shape)


def streak_hu(before: Scan, after: Scan, value: float) -> float:
    """Root mean square change in HU inside the body, away from voxels that have become metal."""
    away = before.body & ~_near(after.image[0] >= LARGEST_HU)
    return float((after.image - before.image)[:, away].square().mean().sqrt())
