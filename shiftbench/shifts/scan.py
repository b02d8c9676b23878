"""What an image operator is handed: one scan with its grid, its body mask and its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import cc3d
import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from shiftbench.errors import DataError
from shiftbench.shifts.ranks import SAMPLE, count, inside, median, sampled
from shiftbench.shifts.signal import Signal

AIR_SHARE = 0.25  # the dark class of Otsu is air if its median is below this share of the bright class's median
BODY_HU = -500.0  # half way between air and fat
LAPLACIAN = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
MEDIAN_TO_SD = 1.4826  # SD of a normal variable over its median absolute value


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan on its way through an acquisition; what is not known of it is estimated, never from labels.

    Attributes:
        raw: the image, float32 (c, *s) in raw units (MR magnitude, HU, or 0 to 255), or the complex MR signal before
            detection.
        spacing: voxel size in mm per spatial axis, slices first, or None.
        modality: mr, ct, rgb or grey.
        native: what is known of the acquisition: `sigma` (SD of the noise, raw units), `slice_mm` (slice thickness),
            `mtf50` (of the reconstruction kernel, line pairs per mm), `te_ms` (phantoms), `scanner_sigma` (SD of the
            noise that the scanner will add, while it has not yet).
        known_body: bool (*s), body mask where it is known (phantoms).
        known_reference: bool (*s), the tissue in which SNR is stated; the body where it is None.
        export: (n, m), takes the m acquired slices to the n of the reference grid; None where they are the same.
    """

    raw: Tensor | Signal
    spacing: tuple[float, ...] | None = None
    modality: str = "mr"
    native: Mapping[str, float] = field(default_factory=dict)
    known_body: Tensor | None = None
    known_reference: Tensor | None = None
    export: Tensor | None = None

    @cached_property
    def image(self) -> Tensor:
        """Float32 (c, *s): the image, or the magnitude of the signal."""
        return magnitude(self.raw.image) if isinstance(self.raw, Signal) else self.raw

    @cached_property
    def signal(self) -> Signal:
        """The complex signal; a finished image is taken for one without phase."""
        return self.raw if isinstance(self.raw, Signal) else Signal(image=self.raw)

    def with_image(self, image: Tensor, **native: float) -> Scan:
        """The scan with another image, and with what is now known of it; the body stays what it was."""
        return replace(self, raw=image, native={**self.native, **native}, known_body=self._body_so_far())

    def with_signal(self, signal: Signal, **native: float) -> Scan:
        """The scan with another complex signal, and with what is now known of it; the body stays what it was."""
        return replace(self, raw=signal, native={**self.native, **native}, known_body=self._body_so_far())

    def _body_so_far(self) -> Tensor | None:
        return self.known_body if self.known_body is not None else self.__dict__.get("body")

    def on_slices(self, slabs: Tensor, back: Tensor, spacing_mm: float, slice_mm: float) -> Scan:
        """The scan as acquired in other slices.

        Args:
            slabs: (m, n), share of each voxel in each of the m slices, rows summing to 1.
            back: (n, m), interpolation from the slices to the reference grid, applied by `exported`.
            spacing_mm: distance of the slices.
            slice_mm: their thickness.
        """
        assert self.spacing is not None

        weights = slabs.to(self.image.dtype)

        def cut(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else _along_slices(weights, mask[None].to(weights.dtype))[0] > 0.5

        native = {**self.native, "slice_mm": slice_mm}
        if "scanner_sigma" in native and self.slice_mm:  # SNR is proportional to the voxel's volume
            native["scanner_sigma"] *= self.slice_mm / slice_mm
        if "sigma" in native:  # noise that is there is averaged
            native["sigma"] *= float(slabs.square().sum(dim=1).mean().sqrt())
        body, tissue = cut(self._body_so_far()), cut(self.known_reference)
        return Scan(
            raw=_along_slices(weights, self.image),
            spacing=(spacing_mm, *self.spacing[1:]),
            modality=self.modality,
            native=native,
            known_body=body if body is not None and body.any() else None,
            known_reference=tissue if tissue is not None and tissue.any() else None,
            export=back if self.export is None else self.export @ back,
        )

    def exported(self) -> Tensor:
        """The image on the reference grid, float32 (c, *s): slices are interpolated at their physical centres."""
        if self.export is None:
            return self.image
        return _along_slices(self.export.to(self.image.dtype), self.image)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def channels(self) -> int:
        """Number of channels; does not compute the other face of a signal."""
        return len(self.raw.any_face()) if isinstance(self.raw, Signal) else len(self.raw)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per spatial axis; does not compute the other face of a signal."""
        raw = self.raw.any_face() if isinstance(self.raw, Signal) else self.raw
        return tuple(raw.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the scan lies."""
        return self.raw.any_face().device if isinstance(self.raw, Signal) else self.raw.device

    @property
    def unit(self) -> Literal["mm", "px"]:
        """Unit of distances on this grid."""
        return "mm" if self.spacing is not None else "px"

    @property
    def spacing_or_pixels(self) -> tuple[float, ...]:
        """Spacing in mm, or ones where distances are in pixels."""
        return self.spacing if self.spacing is not None else (1.0,) * self.ndim

    @property
    def slice_mm(self) -> float | None:
        """Native slice thickness: the known one, else the spacing of the first of three axes."""
        if "slice_mm" in self.native:
            return float(self.native["slice_mm"])
        return self.spacing[0] if self.spacing is not None and self.ndim == 3 else None

    @cached_property
    def body(self) -> Tensor:
        """Bool (*s), inside of the body."""
        return self.known_body if self.known_body is not None else body_mask(self.image, self.modality)

    @property
    def reference_mask(self) -> Tensor:
        """Bool (*s), the tissue in which SNR is stated."""
        return self.body if self.known_reference is None else self.known_reference

    @cached_property
    def reference_signal(self) -> Tensor:
        """(c,), median of every channel in the reference tissue; it does not depend on the air around the body."""
        medians = [median(channel) for channel in inside(self.image, self.reference_mask)]
        return torch.tensor(medians, device=self.device)

    @cached_property
    def sigma(self) -> Tensor:
        """(c,), SD of the noise that is in the image already: the known one, else `estimated_sigma`."""
        if "sigma" in self.native:
            return torch.full((self.image.shape[0],), float(self.native["sigma"]), device=self.device)
        return estimated_sigma(self.image, self.body)


def _along_slices(weights: Tensor, stack: Tensor) -> Tensor:
    """Weights (m, n) times a stack of slices (c, n, h, w), (c, m, h, w)."""
    return (weights @ stack.flatten(2)).unflatten(2, stack.shape[2:])


def magnitude(signal: Tensor) -> Tensor:
    """Absolute values of a complex tensor; on the CPU by numpy, which does it several times faster."""
    return signal.abs() if signal.is_cuda else torch.from_numpy(np.abs(signal.numpy()))


def check_image(image: Tensor, where: object = None) -> None:
    """Refuses an image that no operator is defined for.

    Raises:
        DataError: NaN or infinity in it, or a single value throughout.
    """
    if not bool(torch.isfinite(image).all()):
        raise DataError("the image holds NaN or infinity", where=where, remedy="mend or leave out this case")
    if image.numel() == 0 or bool((image == image.flatten()[0]).all()):
        raise DataError("the image is constant", where=where, remedy="leave out this case")


def body_mask(image: Tensor, modality: str = "mr") -> Tensor:
    """Label-free inside of the body, bool (*s): air cut off, largest piece, holes filled slice by slice.

    CT is cut at -500 HU, other images by Otsu's threshold on the mean of the channels (clipped at its 99.5th
    percentile; of large images an even sample of about 2^17 voxels). Where the dark class is not air (a cropped scan)
    everything is body.

    Reference:
        Otsu, IEEE Trans Syst Man Cybern 9:62, 1979.
    """
    grey = (image[0] if len(image) == 1 else image.mean(dim=0)).cpu()
    cut = BODY_HU if modality == "ct" else _air_threshold(sampled(grey.flatten()).numpy())
    tissue = (grey > cut).numpy()
    if not tissue.any():
        return torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    largest = cc3d.largest_k(tissue.view(np.uint8), k=1) > 0
    return torch.from_numpy(_filled(largest)).to(image.device)


def _air_threshold(grey: np.ndarray) -> float:
    """The grey value that parts air from tissue among `grey` (n,); -inf where there is no air."""
    grey = np.minimum(grey, np.percentile(grey, 99.5))
    cut = float(threshold_otsu(grey))
    bright = grey > cut
    if bright.any() and np.median(grey[~bright]) > AIR_SHARE * np.median(grey[bright]):
        return -math.inf
    return cut


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask (*s) with the holes of every slice filled: what is not joined to the slice's border by edges.

    Slices with a frame of background around them are one tall picture, so that all borders are one piece.
    """
    background = np.ones((*mask.shape[:-2], mask.shape[-2] + 2, mask.shape[-1] + 2), np.uint8)
    background[..., 1:-1, 1:-1] = ~mask
    tall = background.reshape(-1, background.shape[-1])
    pieces = cc3d.connected_components(tall, connectivity=4, binary_image=True).reshape(background.shape)
    return (pieces != pieces.flat[0])[..., 1:-1, 1:-1].copy()


def estimated_sigma(image: Tensor, body: Tensor) -> Tensor:
    """SD of white noise per channel (c,), from the in-plane second differences inside the body.

    The median absolute value of the mask (1, -2, 1) x (1, -2, 1), whose gain on white noise is 6. Fine texture is
    taken for noise, so the estimate is an upper bound in textured tissue; interpolated images give too little. Of
    large volumes every k-th slice is looked at, so that about 2^17 voxels of the body count.

    Reference:
        Immerkaer, Fast noise variance estimation, Comput Vis Image Underst 64:300, 1996.
    """
    if body.ndim == 3:
        step = max(1, min(count(body) // SAMPLE, len(body) // 4))
        image, body = image[:, ::step], body[::step]
    where = body[..., 1:-1, 1:-1]
    if min(image.shape[-2:]) < 3 or not bool(where.any()):
        return torch.zeros(image.shape[0], device=image.device)
    rows = torch.sub(image[..., 1:-1, :], (image[..., :-2, :] + image[..., 2:, :]).mul_(0.5))
    detail = torch.sub(rows[..., 1:-1], (rows[..., :-2] + rows[..., 2:]).mul_(0.5)).abs_()
    scale = 4.0 / 6.0 * MEDIAN_TO_SD
    return torch.tensor([median(channel) * scale for channel in inside(detail, where)], device=image.device)


def channels_first(shape: Sequence[int], spacing: Sequence[float] | None, modality: str) -> bool:
    """Whether an array of `shape` has a channel axis before its two or three spatial axes.

    With a spacing its length decides. Without one, four axes have a channel axis, two have none, and three do if the
    modality is rgb or the first axis has 1 or 3 entries.

    Raises:
        DataError: the number of axes fits neither.
    """
    n = len(shape)
    if spacing is not None:
        if len(spacing) not in (2, 3) or n - len(spacing) not in (0, 1):
            raise DataError(
                f"an image of {n} axes with {len(spacing)} spacings",
                remedy="give (*s) or (c, *s) with two or three spatial axes and one spacing for each of them",
            )
        if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
            raise DataError(f"a spacing of {tuple(spacing)} mm", remedy="give positive numbers")
        return n == len(spacing) + 1
    if n not in (2, 3, 4):
        raise DataError(f"an image of {n} axes", remedy="give (*s) or (c, *s) with two or three spatial axes")
    return n == 4 or (n == 3 and (modality == "rgb" or shape[0] in (1, 3)))
