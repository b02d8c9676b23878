"""Connected components of masks: sharing a corner is being connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cc3d
import numpy as np

CONNECTIVITY: dict[int, Literal[8, 26]] = {2: 8, 3: 26}  # by faces, edges and corners, as BraTS and cc3d have it


def components(mask: np.ndarray) -> np.ndarray:
    """Ids (*s) of the connected components of a boolean mask (*s), 1 to n, 0 outside; 8-connected in 2-D, 26 in 3-D."""
    if not mask.size:
        return np.zeros(mask.shape, np.uint32)
    # as uint8: for bool, cc3d 4.1 takes a short cut that splits some components in two
    return cc3d.connected_components(np.ascontiguousarray(mask, np.uint8), connectivity=CONNECTIVITY[mask.ndim])


def sizes(ids: np.ndarray) -> np.ndarray:
    """Voxels (n,) of the components 1 to n of ids (*s)."""
    return np.bincount(ids.ravel())[1:] if ids.size else np.zeros(0, int)


def diameters(voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Diameters (n,) of the spheres (3-D) or circles (2-D) as large as components of so many voxels (n,)."""
    extent = voxels * float(np.prod(spacing))
    return 2 * np.sqrt(extent / np.pi) if len(spacing) == 2 else np.cbrt(6 * extent / np.pi)
