"""How a contour is drawn under a label protocol: margins, inflation, slices left out, polygons, smoothing.

Each function takes one mask, bool (*s), and gives a new one; lengths are in the unit of the spacing (pixels where an
image has none). What a structure may not take is cut off by the caller (`protocol.reference`).
"""

from __future__ import annotations

import numpy as np

from shiftbench.shifts.distances import distance_to, each_piece, pieces, signed_distance, slices_apart

POSTERIOR_SHARE = 0.5  # of a planning margin, towards the rectum: 10 mm and 5 mm posterior
_FAR = np.float32(1e6)  # signed distance in a slice without contour


def moved(mask: np.ndarray, margin: float, spacing: tuple[float, ...], plane: str = "3d") -> np.ndarray:
    """The mask with its surface moved by `margin`, outwards where it is positive.

    Distances are Euclidean between voxel centres, and a quarter of the smallest voxel side is added to the margin:
    without it the surface of a ball moves by that much too little, with half a side by as much too far. A margin below
    0.75 sides does nothing. The edge of the image is no surface. With `plane` "axial" every slice is taken by itself.
    """
    flat = plane == "axial"
    reach = abs(margin) + 0.25 * min(spacing[-2:] if flat else spacing)
    spacing = slices_apart(spacing, mask.shape) if flat else spacing
    if margin < 0:
        return mask & (distance_to(~mask, spacing) > reach)
    return mask | (distance_to(mask, spacing) <= reach)


def clinical_target(mask: np.ndarray, margin: float, spacing: tuple[float, ...], barrier: np.ndarray) -> np.ndarray:
    """The mask with a margin for microscopic spread: not into a barrier, and not to where only a barrier leads.

    Reference:
        ICRU Report 83, 2010 (GTV to CTV).
    """
    grown = moved(mask, margin, spacing) & (~barrier | mask)
    labels = pieces(grown)
    reached = np.zeros(int(labels.max()) + 1, bool)
    reached[labels[mask]] = True
    return reached[labels] & grown


def planning_target(
    mask: np.ndarray, margin: float, spacing: tuple[float, ...], posterior: tuple[int, int]
) -> np.ndarray:
    """The mask with a margin for set-up errors: `margin` on all sides, half of it posterior (CTV to PTV).

    A dilation with half a ball and half an ellipsoid, by fast Fourier transform.

    Args:
        mask: bool (*s).
        margin: in the unit of the spacing.
        spacing: per axis.
        posterior: the axis that runs to posterior, and its sign.
    """
    axis, sign = posterior
    reach = margin + 0.25 * min(spacing)
    radii = [int(reach / mm) for mm in spacing]
    lengths = [np.arange(-r, r + 1) * mm for r, mm in zip(radii, spacing, strict=True)]
    offsets = list(np.meshgrid(*lengths, indexing="ij", sparse=True))
    behind = sign * offsets[axis]
    short = POSTERIOR_SHARE * margin + 0.25 * min(spacing)
    offsets[axis] = np.where(behind > 0, behind * (reach / short), behind)
    ball = sum(o**2 for o in offsets) <= reach**2
    size = [n + 2 * r for n, r in zip(mask.shape, radii, strict=True)]
    axes = tuple(range(mask.ndim))
    counts = np.fft.irfftn(np.fft.rfftn(mask, size, axes) * np.fft.rfftn(ball, size, axes), size, axes)
    return counts[tuple(slice(r, r + n) for r, n in zip(radii, mask.shape, strict=True))] > 0.5


def inflated(mask: np.ndarray, percent: float, spacing: tuple[float, ...], superior: int | None) -> np.ndarray:
    """Every connected piece larger by `percent` of its volume (area in 2-D), about its centroid.

    Of a volume, the axis `superior` takes half of the change and each of the others a quarter: contours on CT exceed
    those on MR most at base and apex. A picture is inflated alike along both axes. The voxels deepest inside the scaled
    surface are taken, as many as the volume asks for: a surface is moved by less than a voxel without bias.

    Reference:
        prostate on CT 36.9 cm3, on MR 32.0 cm3.
    """
    from scipy import ndimage

    ratio = 1 + percent / 100
    powers = np.full(mask.ndim, 0.5 if superior is None else 0.25)
    if superior is not None:
        powers[superior] = 0.5
    scale = ratio**powers
    grow = int(np.ceil(max(mask.shape) * max(scale.max() - 1, 0) / 2)) + 2
    out = np.zeros_like(mask)
    for box, piece in each_piece(mask, grow=grow):
        centre = np.array([c.mean() for c in np.nonzero(piece)])
        surface = ndimage.gaussian_filter(signed_distance(piece, spacing), 0.7, mode="nearest")
        depth = ndimage.affine_transform(surface, 1 / scale, centre - centre / scale, order=1, mode="nearest")
        deepest = np.argsort(depth, axis=None, kind="stable")[: int(round(ratio * piece.sum()))]
        chosen = np.zeros(piece.size, bool)
        chosen[deepest] = True
        out[box] |= chosen.reshape(piece.shape)
    return out


def interpolated(mask: np.ndarray, every: int, spacing: tuple[float, ...], how: str = "shape") -> np.ndarray:
    """A volume's mask contoured on every n-th slice from its first to its last, and interpolated between them.

    Args:
        mask: bool (z, y, x).
        every: n; the first and the last slice of the structure are always contoured.
        spacing: per axis.
        how: "shape" (the mean of the in-plane signed distances, weighted by nearness; beside a slice without contour
            nothing is drawn) or "nearest" (the contour is copied to the slices nearest to it: stairs in sagittal view).

    Reference:
        Raya and Udupa, Shape-based interpolation, IEEE Trans Med Imaging 9:32, 1990.
    """
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    if not occupied.size:
        return mask.copy()
    first, last = int(occupied[0]), int(occupied[-1])
    kept = np.unique([*range(first, last, every), last])
    z = np.arange(first, last + 1)
    below = np.clip(np.searchsorted(kept, z, side="right") - 1, 0, max(len(kept) - 2, 0))
    above = np.minimum(below + 1, len(kept) - 1)
    nearness = ((z - kept[below]) / np.maximum(kept[above] - kept[below], 1)).astype(np.float32)[:, None, None]
    out = np.zeros_like(mask)
    if how == "nearest":
        out[first : last + 1] = mask[kept[np.where(nearness[:, 0, 0] > 0.5, above, below)]]
        return out
    contoured = mask[kept]
    surface = signed_distance(contoured, slices_apart(spacing, contoured.shape))
    surface[~contoured.any(axis=(1, 2))] = _FAR
    out[first : last + 1] = (1 - nearness) * surface[below] + nearness * surface[above] < 0
    return out


def decimated(mask: np.ndarray, tolerance: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask after each contour of each axial slice became the polygon that Douglas and Peucker's method leaves.

    Holes stay holes, and a contour that would lose its area is kept as it was. All slices are laid in one picture, with
    a gap between them, so that one call finds every contour.

    Args:
        mask: bool (*s).
        tolerance: largest distance of a dropped corner from the polygon.
        spacing: per axis.

    Reference:
        Douglas and Peucker, Cartographica 10:112, 1973.
    """
    from skimage.draw import polygon
    from skimage.measure import find_contours

    slices = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    sheet = slices.reshape(-1, slices.shape[-1])
    contours = find_contours(sheet.astype(np.float32), 0.5)
    if not contours:
        return mask.copy()
    kept = _corners(np.concatenate(contours) * np.array(spacing[-2:]), [len(c) for c in contours], tolerance)
    few = [contour[own] for contour, own in zip(contours, kept, strict=True)]
    polygons = [corners if len(corners) > 3 else whole for corners, whole in zip(few, contours, strict=True)]
    areas = [_signed_area(corners) for corners in polygons]
    out = np.zeros(sheet.shape, bool)
    for i in np.argsort([-abs(a) for a in areas], kind="stable"):  # what lies inside comes later
        inside = polygon(polygons[i][:, 0], polygons[i][:, 1], sheet.shape)
        out[inside] = areas[i] > 0
    return out.reshape(slices.shape)[..., 1:-1, 1:-1]


def _corners(points: np.ndarray, lengths: list[int], tolerance: float) -> list[np.ndarray]:
    """Which points (n, 2) of contours laid end to end stay: Douglas and Peucker's method on all of them at once.

    In each round every stretch between two kept points keeps, of its others, the one that is furthest from the line
    between them, if it is further than `tolerance`.
    """
    ends = np.cumsum(lengths)
    kept = np.zeros(len(points), bool)
    kept[ends - 1] = kept[ends[:-1]] = kept[0] = True
    while True:
        corners = np.flatnonzero(kept)
        stretch = np.cumsum(kept) - 1
        start, stop = points[corners[stretch]], points[corners[np.minimum(stretch + 1, len(corners) - 1)]]
        along, offset = stop - start, points - start
        position = np.sum(offset * along, axis=1) / np.maximum(np.sum(along**2, axis=1), 1e-12)
        distance = np.linalg.norm(offset - np.clip(position, 0, 1)[:, None] * along, axis=1)
        distance[kept] = 0.0
        furthest = np.maximum.reduceat(distance, corners)
        found = np.flatnonzero((distance > tolerance) & (distance == furthest[stretch]))
        if not found.size:
            return np.split(kept, ends[:-1])
        kept[found[np.unique(stretch[found], return_index=True)[1]]] = True  # the first of equals


def _signed_area(corners: np.ndarray) -> float:
    """Area of a closed polygon (n, 2), positive for the outer contours of `find_contours`, negative for holes."""
    rows, columns = corners[:, 0], corners[:, 1]
    return 0.5 * float(np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1]))


def smoothed_slices(drawn: np.ndarray, classes: int, sigma: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Labels (*s) after each axial slice (last two axes) was smoothed: the class with the largest Gaussian mean.

    The smoothing is in-plane, as that of contours drawn slice by slice, and leaves no gap between neighbours that
    had none. `sigma` is in the unit of `spacing`.
    """
    rows, columns = (_gaussian(n, sigma / mm) for n, mm in zip(drawn.shape[-2:], spacing[-2:], strict=True))
    best = np.full(drawn.shape, -1.0, np.float32)
    out = np.zeros_like(drawn)
    for label in range(classes):
        share = rows @ (drawn == label).astype(np.float32) @ columns.T
        larger = share > best + 1e-6  # ties go to the lower label
        best = np.where(larger, share, best)
        out[larger] = label
    return out


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """Gaussian smoothing of n samples as a matrix (n, n) with rows summing to 1."""
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-6)) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
