"""The masks that are scored: a large organ, a pair of organs and scattered lesions, with and without speckle."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from shiftbench.rng import generator

SHAPE, SPACING_MM = (256, 256, 128), (0.8, 0.8, 2.5)
STRUCTURES = (("organ", 2.0), ("kidneys", 2.0), ("lesions", 2.0))  # name and tolerance of the NSD in mm
ERROR_MM, SMOOTH_MM = 2.0, 12.0  # standard deviation of the error of a contour, and over what length it varies

# Centre and radii in mm.
_ORGAN = ((80.0, 100.0, 165.0), (50.5, 62.0, 77.0))
_KIDNEYS = (((140.0, 60.0, 120.0), (18.0, 20.0, 45.0)), ((140.0, 150.0, 130.0), (18.0, 20.0, 45.0)))
_LESIONS = (
    *(((60.0, 80.0, 150.0), 8.0), ((95.0, 120.0, 190.0), 6.0), ((70.0, 130.0, 120.0), 10.0)),
    *(((110.0, 90.0, 210.0), 5.0), ((50.0, 110.0, 200.0), 7.0), ((100.0, 70.0, 110.0), 9.0)),
)
_FALSE_POSITIVE = ((185.0, 30.0, 280.0), 6.0)
_MISSED = 3  # which of the lesions is not predicted


def volume() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference, labels (*s) uint8: a contour error of 2 mm, one lesion missed, one made up."""
    error = _smooth_noise()
    maps = []
    for predicted in (True, False):
        labels, moved = np.zeros(SHAPE, np.uint8), error if predicted else 0.0
        labels[_ellipsoid(*_ORGAN) + moved < 0] = 1
        for kidney in _KIDNEYS:
            labels[_ellipsoid(*kidney) + moved < 0] = 2
        for i, (centre, radius) in enumerate(_LESIONS):
            if not (predicted and i == _MISSED):
                labels[_ellipsoid(centre, (radius,) * 3) + moved < 0] = 3
        if predicted:
            labels[_ellipsoid(_FALSE_POSITIVE[0], (_FALSE_POSITIVE[1],) * 3) < 0] = 3
        maps.append(labels)
    return maps[0], maps[1]


def speckled(labels: np.ndarray, share: float) -> np.ndarray:
    """Labels in which a share of all voxels has become the first structure."""
    hit = generator(0, "speckle").random(labels.shape, np.float32) < share
    return np.where(hit, np.uint8(1), labels)


def slice_2d() -> tuple[np.ndarray, np.ndarray]:
    """The slice (256, 256) of the volume in which most is seen."""
    maps = volume()
    most = int(np.argmax((maps[1] > 0).sum(axis=(0, 1))))
    return tuple(np.ascontiguousarray(labels[..., most]) for labels in maps)  # type: ignore[return-value]


def _ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """About the signed distance (*s) in mm from an ellipsoid, negative inside."""
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    terms = ((axis * side - c) / r for axis, side, c, r in zip(axes, SPACING_MM, centre, radii, strict=True))
    return (np.sqrt(sum(term**2 for term in terms)) - 1) * np.float32(min(radii))


def _smooth_noise() -> np.ndarray:
    noise = generator(0, "contour").normal(size=SHAPE).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, [SMOOTH_MM / side for side in SPACING_MM])
    return smooth * np.float32(ERROR_MM / smooth.std())
