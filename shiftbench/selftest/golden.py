"""Golden cases of our own functions: closed forms that other tools are known to get wrong."""

from __future__ import annotations

from math import hypot, inf, sqrt

import numpy as np

from shiftbench.metrics.instance import panoptic_quality
from shiftbench.metrics.lesions import cc_dice, lesion_f1, ndsc
from shiftbench.metrics.overlap import dsc, volume_bias_percent
from shiftbench.metrics.surface import assd_mm, hd95_mm, hd_mm, nsd
from shiftbench.metrics.tubes import cldice
from shiftbench.selftest.backends import three_blocks
from shiftbench.selftest.check import Golden

_Found = list[float | None]


def _box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def _shifted_box() -> _Found:
    """A box that moved by one thick slice: its top and bottom by a slice, its sides along themselves."""
    first, second = (_box((9, 8, 8), (z, 1, 1), (z + 4, 6, 6)) for z in (1, 2))
    spacing = (5.0, 0.7, 0.7)
    return [hd_mm(first, second, spacing, "S"), hd_mm(first, second, spacing, "V"), *_volumes(first, second)]


def _volumes(first: np.ndarray, second: np.ndarray) -> _Found:
    return [dsc(first, second), volume_bias_percent(first, second)]


def _sheet() -> _Found:
    """A sheet one voxel thick that is one slice off: as surfaces half of it fits, as voxels nothing does."""
    first, second = (_box((6, 7, 7), (z, 1, 1), (z + 1, 6, 6)) for z in (1, 2))
    spacing = (4.0, 1.0, 1.0)
    values: _Found = []
    for definition in ("S", "V"):
        values += [assd_mm(first, second, spacing, definition), nsd(first, second, spacing, 3.9, definition)]
    return values


def _cut_by_the_field_of_view() -> _Found:
    """Slabs that fill the plane: outside the array is background, wherever the array ends."""
    first, second = (_box((6, 5, 5), (0, 0, 0), (z, 5, 5)) for z in (4, 5))
    spacing, values = (3.0, 1.0, 1.0), []
    for definition in ("S", "V"):
        padded = hd_mm(np.pad(first, 3), np.pad(second, 3), spacing, definition)
        values += [hd_mm(first, second, spacing, definition), padded]
    return values


def _far_false_positive() -> _Found:
    """Two of 22 pixels are 30 mm away: the 95th percentile of their direction sees them, a pooled one does not."""
    reference = _box((24, 40), (2, 5), (22, 6))
    prediction = reference | _box((24, 40), (10, 35), (12, 36))
    return [hd95_mm(prediction, reference, (1, 1), "V"), hd95_mm(prediction, reference, (1, 1), "S")]


def _interior_hole() -> _Found:
    """The border of a hole is a surface: three voxels inside the other one."""
    reference = _box((9, 9, 9), (1, 1, 1), (8, 8, 8))
    prediction = reference & ~_box((9, 9, 9), (4, 4, 4), (5, 5, 5))
    return [hd_mm(prediction, reference, (1, 1, 2.5), definition) for definition in ("S", "V")]


def _full_array() -> _Found:
    """A reference without background; the prediction lacks a slice."""
    reference = np.ones((6, 5, 5), bool)
    return [hd_mm(_box((6, 5, 5), (1, 0, 0), (6, 5, 5)), reference, (4, 1, 1), definition) for definition in ("S", "V")]


def _single_voxels() -> _Found:
    first, second = np.zeros((2, 5, 5, 5), bool)
    first[1, 1, 1] = second[2, 2, 2] = True
    spacing = (0.7, 0.7, 5.0)
    return [
        *(dsc(first, second), hd95_mm(first, second, spacing, "V"), nsd(first, second, spacing, 1.0, "V")),
        *(dsc(first, first), hd95_mm(first, first, spacing, "S"), nsd(first, first, spacing, 1.0, "S")),
    ]


def _empty() -> _Found:
    """Nothing at all, a missed voxel in a corner, and a false one."""
    nothing, corner = np.zeros((4, 4, 4), bool), _box((4, 4, 4), (0, 0, 0), (1, 1, 1))
    values: _Found = []
    for prediction, reference in ((nothing, nothing), (nothing, corner), (corner, nothing)):
        values += [dsc(prediction, reference), nsd(prediction, reference, (1, 1, 4), 2.0)]
        values += [hd95_mm(prediction, reference, (1, 1, 4), definition) for definition in ("S", "V")]
        values += [cldice(prediction, reference), lesion_f1(prediction, reference), cc_dice(prediction, reference)]
    return values


def _anisotropic_plane() -> _Found:
    """A rectangle of 9 by 7 pixels of 0.5 by 1.5 mm that moved by one of the long sides."""
    first, second = (_box((13, 12), (2, x), (11, x + 7)) for x in (2, 3))
    values = [hd95_mm(first, second, (0.5, 1.5), definition) for definition in ("S", "V")]
    return [*values, nsd(first, second, (0.5, 1.5), 1.0, "S")]


_ACROSS = hypot(0.5, 1.5) / 2  # of a corner
_AROUND = 12 * 1.5 + 16 * 0.5 + 4 * _ACROSS  # of the rectangle: two long sides, two short ones, four corners
_NEAR = 12 * 1.5 + 2 * 2 * 0.5 + 2 * _ACROSS  # along itself, and where the side is at most 1 mm from an end


def _tie() -> _Found:
    """Two instances that fit, and two of which half is found: an IoU of exactly 0.5 is no match."""
    reference = np.zeros((8, 8), int)
    reference[0:2, 0:4], reference[0:2, 5:8], reference[4, 0:4], reference[6, 0:4] = 1, 2, 3, 4
    prediction = np.where((reference < 3) | (np.arange(8) < 2), reference, 0)
    return list(panoptic_quality(prediction, reference))


def _connectivity() -> _Found:
    """Blocks that share an edge and a corner are one lesion; one prediction of two lesions finds one of them."""
    blocks = three_blocks().astype(bool)
    pair = np.array([[1, 1, 0, 1, 1, 0, 0]], bool)
    return [lesion_f1(blocks, blocks & (np.indices(blocks.shape).sum(0) > 0)), lesion_f1(pair | True, pair, 0.25)]


def _lesions() -> _Found:
    """A large lesion that is found, a small one that is not; and the load at which the nDSC is the DSC."""
    reference = np.zeros((10, 100), bool)
    reference[2:4, 10:20] = reference[7, 80] = True
    one, half = np.zeros((2, 10, 100), bool)
    one[0, 0] = half[0, :2] = True
    found = reference & (np.arange(100) < 50)
    region = np.ones((10, 100), bool)
    return [cc_dice(found, reference), ndsc(half, one, region), dsc(half, one), ndsc(half, one, region, 0.01)]


def _tubes() -> _Found:
    """Half of a line, and a bar of an even thickness, whose centre line some thinnings lose."""
    line, bar = np.zeros((5, 24), bool), np.zeros((6, 6, 24), bool)
    line[2, 2:22] = bar[1:5, 1:5, 2:22] = True
    return [cldice(line & (np.arange(24) < 12), line), cldice(bar, bar), cldice(bar & (np.arange(24) < 0), bar)]


def _golden(name: str, expected: _Found, measure) -> Golden:
    return Golden(name, "shiftbench", expected, measure)


_MISSED: _Found = [0, 0, inf, inf, 0, 0]
CASES = (
    _golden("box one thick slice off", [5, 5, 0.75, 0], _shifted_box),
    _golden("sheet one slice off", [2, 0.5, 4, 0], _sheet),
    _golden("object cut by the field of view", [3, 3, 3, 3], _cut_by_the_field_of_view),
    _golden("far false positive", [28.5, 30], _far_false_positive),
    _golden("interior hole", [3, 3], _interior_hole),
    _golden("reference that fills the array", [4, 4], _full_array),
    _golden("single voxels", [0, sqrt(2 * 0.7**2 + 5**2), 0, 1, 0, 1], _single_voxels),
    _golden("empty masks", [*[None] * 7, *_MISSED, 0, *_MISSED, None], _empty),
    _golden("rectangle of long pixels", [1.5, 1.5, _NEAR / _AROUND], _anisotropic_plane),
    _golden("IoU of one half", [0.5, 1, 0.5], _tie),
    _golden("connectivity of lesions", [1, 2 / 3], _connectivity),
    _golden("large and small lesions", [0.5, 2 / 3, 2 / 3, 2 / (2 + 99 / 999)], _lesions),
    _golden("centre lines", [2 / 3, 1, 0], _tubes),
)
