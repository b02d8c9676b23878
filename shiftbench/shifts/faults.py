"""Faults of a pipeline: wrong orientation, spacing, mask, channel or unit. The scanner did nothing wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import edt
import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts.libraries import n4_bias
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.warps import pull

# category -> in-plane axes reversed, and whether rows and columns are exchanged afterwards; slices are never moved
ORIENTATIONS: dict[int, tuple[tuple[int, ...], bool]] = {
    0: ((), False),
    1: ((-2,), False),  # anterior-posterior flip
    2: ((-2, -1), False),  # half a turn
    3: ((), True),  # axes exchanged
    4: ((-1,), True),  # a quarter turn
    5: ((-2,), True),  # a quarter turn the other way
}
STORED_OFFSET_HU = 1024.0  # of unsigned CT storage
WINDOW_HU = (-160.0, 240.0)  # soft tissue of the trunk
AIR_HU = -1000.0
SIZES, SIZE_STEPS = (0.8, 2.5), 115  # in-plane magnifications that are tried, 1 % apart
INWARDS = 1e-5  # relative
N4_ITERATIONS = 30  # per level of the fit


def _moved(scan: Scan, move: Callable[[Tensor], Tensor]) -> Scan:
    """The scan with its image and what is known of its body moved together."""

    def mask(known: Tensor | None) -> Tensor | None:
        return None if known is None else move(known)

    return replace(scan, raw=move(scan.image), known_body=mask(scan.body), known_reference=mask(scan.known_reference))


def left_right_flip(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan mirrored left to right (columns reversed), as by a sign lost from its orientation; 0 is none."""
    return scan if value == 0 else _moved(scan, lambda image: image.flip(-1))


def left_right_displacement(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    body: Tensor | None,
    value: float,
    rng: np.random.Generator,
) -> Tensor:
    """Field of `left_right_flip` in mm, (ndim, *s), exact to the voxel."""
    return _permutation_field(shape, spacing, (-1,) if value else (), False)


def orientation(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with its in-plane axes reversed or exchanged, category `value` of `ORIENTATIONS`; 0 is none.

    Raises:
        OperatorError: axes are exchanged and the in-plane grid is not the same along both.
    """
    axes, exchanged = ORIENTATIONS[int(value)]
    if value == 0:
        return scan
    _check_square(scan.shape, scan.spacing_or_pixels, exchanged)

    def move(image: Tensor) -> Tensor:
        image = image.flip(axes) if axes else image
        return image.transpose(-1, -2).contiguous() if exchanged else image

    return _moved(scan, move)


def orientation_displacement(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    body: Tensor | None,
    value: float,
    rng: np.random.Generator,
) -> Tensor:
    """Field of `orientation` in mm, (ndim, *s), exact to the voxel.

    Raises:
        OperatorError: as `orientation`.
    """
    axes, exchanged = ORIENTATIONS[int(value)]
    _check_square(shape, spacing, exchanged)
    return _permutation_field(shape, spacing, axes, exchanged)


def _check_square(shape: tuple[int, ...], spacing: tuple[float, ...], exchanged: bool) -> None:
    if exchanged and (shape[-1] != shape[-2] or not math.isclose(spacing[-1], spacing[-2], rel_tol=1e-3)):
        raise OperatorError(
            f"axes of {shape[-2]} and {shape[-1]} pixels of {spacing[-2]:g} and {spacing[-1]:g} mm cannot be exchanged",
            where="orientation",
            remedy="use an image that is square in-plane, or another category",
        )


def _permutation_field(
    shape: tuple[int, ...], spacing: tuple[float, ...], axes: tuple[int, ...], exchanged: bool
) -> Tensor:
    index = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij"))
    source = index.clone()
    if exchanged:
        source[-1], source[-2] = index[-2], index[-1]
    for axis in axes:
        source[axis] = shape[axis] - 1 - source[axis]
    return (source - index) * torch.tensor(spacing).reshape(-1, *(1,) * len(shape))


def wrong_spacing(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan as resampled by a header whose in-plane pixel size is `value` times the true one; 1 changes nothing.

    Content is `value` times as large about the centre of the field of view, linearly interpolated.
    """
    if value == 1:
        return scan
    spacing = scan.spacing_or_pixels
    field = wrong_spacing_displacement(scan.shape, spacing, None, value, rng).to(scan.device)

    def move(image: Tensor) -> Tensor:
        if image.dtype == torch.bool:
            return pull(image[None].float(), field, spacing, mode="nearest")[0] > 0.5
        return pull(image, field, spacing, mode="bilinear")

    return _moved(scan, move)


def wrong_spacing_displacement(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    body: Tensor | None,
    value: float,
    rng: np.random.Generator,
) -> Tensor:
    """Field of `wrong_spacing` in mm, (ndim, *s): u(x) = (1 / value - 1) (x - centre) in-plane.

    Voxels half way between two others take the inner one (`INWARDS`), so that nearest neighbours stay symmetric.
    """
    field = torch.zeros(len(shape), *shape)
    for axis in (-2, -1):
        at = (torch.arange(shape[axis], dtype=torch.float32) - (shape[axis] - 1) / 2) * spacing[axis]
        field[axis] = ((1 - INWARDS) / value - 1) * (at if axis == -1 else at[:, None])
    return field


def magnification(before: Scan, after: Scan, value: float) -> float:
    """In-plane size of `after` relative to `before`: the scaling of `before` (middle slice) that is most like it."""
    first, second = (s.image.flatten(0, -3)[len(s.image.flatten(0, -3)) // 2][None, None] for s in (before, after))
    steps = np.linspace(math.log(SIZES[0]), math.log(SIZES[1]), SIZE_STEPS)
    scales = torch.from_numpy(np.exp(-steps)).to(first)
    turn = torch.zeros(len(scales), 2, 3).to(first)
    turn[:, 0, 0], turn[:, 1, 1] = scales, scales
    grid = torch.nn.functional.affine_grid(turn, [len(scales), 1, *first.shape[-2:]], align_corners=False)
    scaled = torch.nn.functional.grid_sample(
        first.expand(len(scales), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    error = (scaled - second).square().mean(dim=(1, 2, 3)).double().cpu().numpy()
    best = int(np.clip(error.argmin(), 1, SIZE_STEPS - 2))
    low, middle, high = error[best - 1 : best + 2]
    curve = low - 2 * middle + high
    offset = 0.5 * (low - high) / curve if curve > 0 else 0.0
    return float(np.exp(steps[best] + offset * (steps[1] - steps[0])))


def mask_erosion(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with all tissue less than `value` mm under the surface of the body mask cut off; 0 changes nothing.

    As by skull stripping, or a body mask, that is too tight. What is outside is 0, or air in CT.

    Raises:
        NotApplicable: nothing would be left.
    """
    if value == 0:
        return scan
    kept = scan.body & (_depth(scan) >= value)
    if not bool(kept.any()):
        raise NotApplicable(
            f"{value:g} mm were to be cut off a body that is {2 * float(_depth(scan).max()):.3g} mm thick",
            where="mask_erosion",
            remedy="cut off less",
        )
    outside = AIR_HU if scan.modality == "ct" else 0.0
    return scan.with_image(torch.where(kept, scan.image, torch.full_like(scan.image, outside)))


def _depth(scan: Scan) -> Tensor:
    """Depth under the surface of the body, (*s), in mm; centres of the outermost voxels are half a voxel deep."""
    spacing = scan.spacing_or_pixels
    body = np.ascontiguousarray(scan.body.cpu().numpy())
    depth = edt.edt(body, anisotropy=spacing) - min(spacing) / 2
    return torch.from_numpy(depth.clip(min=0)).to(scan.device)


def eroded_mm(before: Scan, after: Scan, value: float) -> float:
    """Depth in mm of the deepest voxel of the body that was changed."""
    changed = (after.image != before.image).any(dim=0) & before.body
    return float(_depth(before)[changed].max()) if bool(changed.any()) else 0.0


def missing_channel(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with channel number `value` (from 1) lost: its smallest value throughout; 0 is none.

    Raises:
        NotApplicable: there is no such channel.
    """
    if value == 0:
        return scan
    n, index = len(scan.image), int(value) - 1
    if index >= n:
        raise NotApplicable(
            f"channel {index + 1} of an image of {n} channels", where="missing_channel", remedy="ask for another"
        )
    image = scan.image.clone()
    image[index] = image[index].min()
    return scan.with_image(image)


def lost_channels(before: Scan, after: Scan, value: float) -> float:
    """Number of channels that are constant now and were not."""
    constant = [(s.image.flatten(1) == s.image.flatten(1)[:, :1]).all(dim=1) for s in (before, after)]
    return float((constant[1] & ~constant[0]).sum())


def hu_unit(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The CT scan in another unit than HU, by category; 0 is none.

    1: stored values without their intercept (HU + 1024); 2: the intercept applied twice (HU - 1024); 3: attenuation
    relative to water (HU / 1000 + 1); 4: a soft-tissue window as 8-bit grey values; 5: a window with the grey scale
    inverted.
    """
    hu = scan.image
    low, high = WINDOW_HU
    grey = 255 * ((hu - low) / (high - low)).clamp(0, 1)
    categories = (hu, hu + STORED_OFFSET_HU, hu - STORED_OFFSET_HU, hu / 1000 + 1, grey.round(), 255 - grey.round())
    return scan if value == 0 else scan.with_image(categories[int(value)])


def bias_correction(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan after N4 with `value` fitting levels, which the scans that a model has learned from had not; 0 is none.

    One level follows a smooth coil, five levels take contrast between organs for shading.

    Reference:
        Tustison et al., N4ITK: improved N3 bias correction, IEEE Trans Med Imaging 29:1310, 2010.
    """
    if value == 0:
        return scan
    body = scan.body.cpu().numpy()
    iterations = (N4_ITERATIONS,) * int(value)
    fields = [n4_bias(channel.cpu().numpy(), body, iterations=iterations) for channel in scan.image]
    return scan.with_image(scan.image / torch.from_numpy(np.stack(fields)).to(scan.device))
