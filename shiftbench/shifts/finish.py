"""Operators on the finished image: filters of the vendor, lens and light, bits and compression."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from torch import Tensor

from shiftbench.errors import OperatorError
from shiftbench.shifts.geometry import FWHM_PER_SD
from shiftbench.shifts.scan import Scan

UNSHARP_FWHM = 2.5  # mm, or pixels where there is no spacing
DEPTH = 16  # bits of the samples that JPEG 2000 is given
START_OF_DATA = b"\xff\x93"  # marker of a JPEG 2000 codestream
CODESTREAM_HEADER = 151  # bytes of its headers and end, which compression does not count


def vendor_filter(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image sharpened in the plane: `value` times what a Gaussian of 2.5 mm takes away is added; 0: as it is.

    Values that would become negative are 0, as in a magnitude. Noise is amplified and correlated, as on a console.
    """
    if value == 0:
        return scan
    mm = scan.spacing_or_pixels
    smooth = blurred(scan.image, (UNSHARP_FWHM / mm[-2], UNSHARP_FWHM / mm[-1]))
    return scan.with_image(torch.lerp(scan.image, smooth, -value).clamp_(min=0))


def blurred(image: Tensor, fwhm: tuple[float, float]) -> Tensor:
    """Image (c, *s) under a Gaussian of `fwhm` pixels along its last two axes; edges are weighted by what is there."""
    rows, columns = (
        torch.from_numpy(_gaussian(n, w)).to(image.device) for n, w in zip(image.shape[-2:], fwhm, strict=True)
    )
    return rows @ (image @ columns.T)


def _gaussian(n: int, fwhm: float) -> np.ndarray:
    distance = np.subtract.outer(np.arange(n), np.arange(n)) / (max(fwhm, 1e-3) / FWHM_PER_SD)
    weights = np.exp(-0.5 * distance**2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def sharpening(before: Scan, after: Scan, value: float) -> float:
    """Factor, by least squares, on what the Gaussian takes away that was added to the image."""
    mm = before.spacing_or_pixels
    detail = before.image - blurred(before.image, (UNSHARP_FWHM / mm[-2], UNSHARP_FWHM / mm[-1]))
    shown = after.image > 0
    detail, change = detail[shown].double(), (after.image - before.image)[shown].double()
    return float((detail * change).sum() / detail.square().sum())


def defocus(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The photograph out of focus: a Gaussian of FWHM `value` pixels; 0 changes nothing."""
    return scan if value == 0 else scan.with_image(blurred(scan.image, (value, value)))


def blur_px(before: Scan, after: Scan, value: float) -> float:
    """FWHM in pixels of the Gaussian that turns the input into the output, by least squares."""

    def misfit(fwhm: float) -> float:
        return float((blurred(before.image, (fwhm, fwhm)) - after.image).square().mean())

    return float(minimize_scalar(misfit, bounds=(0.05, 4 * value + 1), method="bounded", options={"xatol": 1e-3}).x)


def colour_cast(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The photograph with another white balance or stain: gains of its channels up to `value` % apart; 0: as it is.

    The gains' mean is 1; chance picks the hue.
    """
    c = len(scan.image)
    hue = rng.uniform(0, 2 * math.pi)
    if value == 0:
        return scan
    direction = np.cos(hue + 2 * np.pi * np.arange(c) / c)
    gains = 1 + value / 100 * (direction - direction.mean()) / np.ptp(direction)
    return scan.with_image(scan.image * torch.from_numpy(gains.astype(np.float32)).to(scan.device).reshape(-1, 1, 1))


def cast_percent(before: Scan, after: Scan, value: float) -> float:
    """Largest difference of the gains of two channels in % of their mean."""
    gains = after.image.flatten(1).double().sum(dim=1) / before.image.flatten(1).double().sum(dim=1)
    return 100 * float((gains.max() - gains.min()) / gains.mean())


def quantise(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image stored in `value` bits, from its smallest to its largest value; infinity changes nothing."""
    if math.isinf(value):
        return scan
    low, high = (float(v) for v in scan.image.aminmax())
    step = (high - low) / (2**value - 1)
    return scan.with_image((scan.image - low).mul_(1 / step).round_().mul_(step).add_(low))


def bits(before: Scan, after: Scan, value: float) -> float:
    """Bits that the values of the output need: its range over the smallest distance of two of them."""
    values = torch.unique(after.image)
    steps = values.diff()
    span = float(values[-1] - values[0])
    return math.log2(span / float(steps[steps > 1e-6 * span].min()) + 1)


def jpeg2000(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image compressed `value`-fold by JPEG 2000 (16 bits, wavelets 9/7) and decoded; 1 changes nothing.

    All slices are one tall picture, so bits go where the detail is. The headers of the file do not count.
    """
    if value == 1:
        return scan
    low, high = float(scan.image.min()), float(scan.image.max())
    scale = (2**DEPTH - 1) / (high - low)
    tall = ((scan.image - low) * scale).round_().reshape(-1, scan.shape[-1]).cpu().numpy().astype(np.uint16)
    buffer = io.BytesIO()
    rate = tall.nbytes / (tall.nbytes / value + CODESTREAM_HEADER)
    Image.fromarray(tall).save(
        buffer, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[rate], no_jp2=True
    )
    size = buffer.tell() - buffer.getvalue().find(START_OF_DATA) - 4
    decoded = np.asarray(Image.open(buffer)).astype(np.float32)
    out = torch.from_numpy(decoded).to(scan.device).div_(scale).add_(low).reshape(scan.image.shape)
    return scan.with_image(out, compression=tall.nbytes / size)


def jpeg(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The photograph (0 to 255) as a JPEG file of quality `value` and decoded; 100 changes nothing.

    Raises:
        OperatorError: a volume, or a number of channels other than 1 and 3.
    """
    if scan.ndim != 2 or len(scan.image) not in (1, 3):
        problem = f"an image of {len(scan.image)} channels and {scan.ndim} axes is no photograph"
        raise OperatorError(problem, where="jpeg", remedy="use 2-D images of 1 or 3 channels")
    if value == 100:
        return scan
    pixels = scan.image.round().clamp_(0, 255).to(torch.uint8).movedim(0, -1).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=round(value))
    size = buffer.tell()
    decoded = np.asarray(Image.open(buffer)).astype(np.float32).reshape(pixels.shape)
    out = torch.from_numpy(decoded).to(scan.device).movedim(-1, 0).contiguous()
    return scan.with_image(out, compression=pixels.nbytes / size)


def compression(before: Scan, after: Scan, value: float) -> float:
    """Bytes of the samples before over bytes of the file."""
    return after.native["compression"]
