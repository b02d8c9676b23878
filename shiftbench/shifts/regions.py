"""What belongs to a structure under a label protocol: concavities, holes, ends, sides, vessels and lesions.

Each function takes masks, bool (*s), and gives new ones; lengths are in the unit of the spacing (pixels where an image
has none). An empty mask stays empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cc3d
import numpy as np

from shiftbench.shifts.distances import distance_to, each_piece, pieces, window

Masks = dict[str, np.ndarray]


def closed(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask with every gap filled that a ball of this radius cannot enter (closing); beyond the image is outside.

    Concavities such as the hilum of an organ are filled, and parts less than twice the radius apart are joined.
    """
    pads = [int(np.ceil(radius / mm)) + 1 for mm in spacing]
    padded = np.pad(mask, [(p, p) for p in pads])
    grown = distance_to(padded, spacing) <= radius
    back = distance_to(~grown, spacing) > radius
    return back[tuple(slice(p, p + n) for p, n in zip(pads, mask.shape, strict=True))] | mask


def thick_enough(mask: np.ndarray, diameter: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The parts of the mask at least as thick as `diameter`: where a ball of it fits, and the rim beside such parts.

    Thickness is that of Hildebrand and Ruegsegger (Journal of Microscopy 185:67, 1997): the largest ball inside the
    mask that covers a voxel. It is computed on a grid of half the voxel size, so that even and odd widths are told
    apart. The rim of 0.75 voxels keeps the ragged edge of what stays.
    """
    out = np.zeros_like(mask)
    for box, piece in each_piece(mask, grow=1):
        out[box] |= _thick_enough(piece, diameter, spacing)
    return out


def _thick_enough(mask: np.ndarray, diameter: float, spacing: tuple[float, ...]) -> np.ndarray:
    """`thick_enough` of one connected piece."""
    half = tuple(mm / 2 for mm in spacing)
    fine = mask
    for axis in range(mask.ndim):
        fine = np.repeat(fine, 2, axis=axis)
    slack = 1e-3 * min(spacing)
    core = fine & (distance_to(~fine, half) >= diameter / 2 - slack)
    kept = fine & (distance_to(core, half) < diameter / 2 + 0.75 * min(spacing))
    for axis in range(mask.ndim):
        split = kept.shape[:axis] + (mask.shape[axis], 2) + kept.shape[axis + 1 :]
        kept = np.logical_or.reduce(kept.reshape(split), axis=axis + 1)
    return kept & mask


def centreline(mask: np.ndarray, width: float, spacing: tuple[float, ...]) -> np.ndarray:
    """A band of one width about the centreline of the mask (vessels traced along their course, without their calibre).

    The centreline is the topological skeleton of scikit-image.
    """
    from skimage.morphology import skeletonize  # imported where it is used: it takes 0.3 s

    return distance_to(skeletonize(mask) > 0, spacing) <= width / 2 + 0.25 * min(spacing)


def holes_filled(mask: np.ndarray, how: str) -> np.ndarray:
    """The mask with its holes: background that does not reach the edge of the image, or ("2d") of its own slice."""
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(mask.ndim, 1)
    inside_slices = how == "2d" and mask.ndim == 3
    if inside_slices:
        cross[[0, 2]] = False
    labels, count = ndimage.label(~mask, cross)
    open_ = np.zeros(count + 1, bool)
    for axis in range(mask.ndim - 2 if inside_slices else 0, mask.ndim):
        open_[np.take(labels, [0, -1], axis=axis)] = True
    return mask | ~open_[labels]


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece, the first of equals."""
    labels = pieces(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return mask & (labels == int(np.argmax(sizes)))


def one_side(mask: np.ndarray, axis: int, sign: int) -> np.ndarray:
    """The connected pieces whose centroid lies beyond the middle of the image along an axis, in a direction."""
    labels = pieces(mask)
    sizes = np.bincount(labels.ravel())
    along = np.arange(mask.shape[axis]) - (mask.shape[axis] - 1) / 2
    weights = np.broadcast_to(np.expand_dims(along, [a for a in range(mask.ndim) if a != axis]), mask.shape)
    centres = np.bincount(labels.ravel(), weights=weights.ravel()) / np.maximum(sizes, 1)
    return mask & (sign * centres > 0)[labels]


def without_edge(mask: np.ndarray, band: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask without what lies within `band` of the edge of the image (of the voxels' outer faces)."""
    kept = mask.copy()
    for axis, mm in enumerate(spacing):
        n = mask.shape[axis]
        from_edge = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) * mm
        kept &= np.expand_dims(from_edge >= band, [a for a in range(mask.ndim) if a != axis])
    return kept


def with_ends(mask: np.ndarray, slices: int, axis: int, sign: int) -> np.ndarray:
    """Every connected piece longer (or, negative, shorter) by some slices at one end of an axis.

    A longer piece repeats its last slice, as far as the image goes; one that is no longer than what is cut vanishes.
    """
    out = np.zeros_like(mask)
    for box, piece in each_piece(mask, grow=max(slices, 0)):
        ordered = np.moveaxis(piece, axis, 0)[::sign]  # towards the end
        occupied = np.flatnonzero(ordered.any(axis=tuple(range(1, mask.ndim))))
        last = int(occupied[-1])
        new = ordered.copy()
        if slices < 0:
            new[max(last + 1 + slices, 0) :] = False
        else:
            new[last + 1 : last + 1 + slices] = ordered[last]
        out[box] |= np.moveaxis(new[::sign], 0, axis)
    return out


def whole_slices(length: float, spacing: float) -> int:
    """The number of slices nearest to a length, with its sign; halves away from 0."""
    return int(np.sign(length) * np.floor(abs(length) / spacing + 0.5))


def with_layer_above(mask: np.ndarray, thickness: float, spacing: tuple[float, ...], axis: int, sign: int):
    """The mask with a layer on its face towards one end of an axis."""
    ordered = np.moveaxis(mask, axis, 0)[::sign]
    out = ordered.copy()
    for step in range(1, whole_slices(thickness, spacing[axis]) + 1):
        out[step:] |= ordered[:-step]
    return np.moveaxis(out[::sign], 0, axis)


def without_end_of_all(masks: Masks, names: Sequence[str], length: float, step: float, axis: int, sign: int) -> Masks:
    """Structures that form one body (a hippocampus in parts) without the end of that body along an axis."""
    body = np.any([masks[name] for name in names], axis=0)
    kept = with_ends(body, -whole_slices(length, step), axis, sign)
    return {**masks, **{name: masks[name] & kept for name in names}}


def with_border_moved(
    masks: Masks, name: str, others: Sequence[str], shift: float, spacing: tuple[float, ...]
) -> Masks:
    """The border of one structure with others moved into them by `shift`, or (negative) into itself.

    What it gives up falls to the nearest of the others, so that their union is as it was: a landmark between two parts
    of one organ that is set elsewhere. The reach is that of a margin.
    """
    moved, reach = dict(masks), abs(shift) + 0.25 * min(spacing)
    if not masks[name].any():
        return moved
    if shift > 0:
        near = distance_to(masks[name], spacing) <= reach
        moved[name] = masks[name] | (near & np.any([masks[o] for o in others], axis=0))
        return {**moved, **{o: masks[o] & ~near for o in others}}
    far = np.stack([distance_to(masks[o], spacing) for o in others])
    given = masks[name] & (far.min(axis=0) <= reach)
    nearest = far.argmin(axis=0)
    moved[name] = masks[name] & ~given
    return {**moved, **{o: masks[o] | (given & (nearest == i)) for i, o in enumerate(others)}}


def without_small(
    mask: np.ndarray, instances: np.ndarray | None, smallest_mm3: float, spacing: tuple[float, ...]
) -> np.ndarray:
    """The mask (*s) without its lesions below a volume; a new array.

    A lesion is an instance, or a 26-connected piece (8-connected in 2-D) of what has no instance. In 2-D the limit is
    the area of the great disc of a sphere of that volume.
    """
    limit = smallest_mm3 if mask.ndim == 3 else np.pi * (3 * smallest_mm3 / (4 * np.pi)) ** (2 / 3)
    ids = np.zeros(mask.shape, np.int64) if instances is None else np.where(mask, instances, 0).astype(np.int64)
    loose = cc3d.connected_components((mask & (ids == 0)).astype(np.uint8), connectivity=26 if mask.ndim == 3 else 8)
    ids += np.where(loose > 0, loose.astype(np.int64) + ids.max(), 0)
    sizes = np.bincount(ids.ravel()) * float(np.prod(spacing))
    return mask & (sizes[ids] >= limit)


def confluent(mask: np.ndarray, gap: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask with its connected pieces joined where they lie no further apart than `gap`, from face to face.

    The bridge is where the distances to the two nearest pieces add up to no more than that; it is built until nothing
    is left to join.
    """
    out, before = mask.copy(), -1
    while int(out.sum()) != before:
        before = int(out.sum())
        nearest, second = (np.full(mask.shape, np.inf, np.float32) for _ in range(2))
        for box, piece in each_piece(out, grow=int(np.ceil(gap / min(spacing))) + 1):
            away = distance_to(piece, spacing)
            second[box] = np.minimum(second[box], np.maximum(nearest[box], away))
            nearest[box] = np.minimum(nearest[box], away)
        out |= nearest + second <= gap + min(spacing) * (1 + 1e-6)  # from voxel centre to voxel centre
    return out


def above_threshold(mask: np.ndarray, lesion_map: np.ndarray, z: float) -> np.ndarray:
    """The connected regions of `lesion_map` >= z that hold part of a lesion: its penumbra in or out, by one threshold.

    Args:
        mask: lesions, bool (*s).
        lesion_map: (*s), standard deviations above normal-appearing tissue.
        z: threshold in those.
    """
    labels = pieces(lesion_map >= z)
    held = np.zeros(int(labels.max()) + 1, bool)
    held[labels[mask]] = True
    held[0] = False
    return held[labels]


def rim(mask: np.ndarray, thickness: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The outer layer of the mask; at least the voxels of its surface."""
    box = window(mask, 0.0, spacing)
    out = np.zeros_like(mask)
    if box is not None:
        out[box] = mask[box] & (distance_to(~mask[box], spacing) <= max(thickness, max(spacing)) + 0.25 * min(spacing))
    return out


def painted(masks: Mapping[str, np.ndarray], structures: Sequence[str], order: Sequence[str]) -> np.ndarray:
    """Labels uint8 (*s): 1, 2, ... in the sequence of `structures`, painted in `order`: the last one lies on top."""
    number = {name: i for i, name in enumerate(structures, start=1)}
    drawn = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for name in order:
        drawn[masks[name]] = number[name]
    return drawn


def painting_order(masks: Mapping[str, np.ndarray], structures: Sequence[str], rule: str | Sequence[str]) -> list[str]:
    """The structures as they are painted: a list of them (the rest come first), or a choice of the rule `order`."""
    if not isinstance(rule, str):
        return [*(name for name in structures if name not in rule), *rule]
    if rule == "listed":
        return list(structures)
    if rule == "reversed":
        return list(reversed(structures))
    sign = {"large_on_top": 1, "small_on_top": -1}[rule]
    return sorted(structures, key=lambda name: sign * int(masks[name].sum()))  # stable: equals as listed
