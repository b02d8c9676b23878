"""The one place where image operators call other people's libraries.

A library that changes its numbers between versions can change ours here only; every function has a test of what it is
relied on for.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

N4_LARGEST = 64  # voxels per axis of the grid on which the field is fitted; it has no finer structure than that


def n4_bias(image: np.ndarray, mask: np.ndarray, *, iterations: tuple[int, ...] = (30, 30, 20)) -> np.ndarray:
    """The smooth field by which N4 says that an image is shaded, with mean logarithm 0 inside the mask.

    Args:
        image: (*s), two or three axes, not negative.
        mask: bool (*s), where the field is fitted; elsewhere it is extrapolated.
        iterations: at most so many on each level of the fit, coarse to fine.

    Returns:
        Float32 (*s); image / field is the corrected image. One thread, so that it is the same wherever it runs.

    Reference:
        Tustison et al., N4ITK, IEEE Trans Med Imaging 29:1310, 2010, as in SimpleITK.
    """
    full = sitk.GetImageFromArray(np.ascontiguousarray(image, np.float32))
    inside = sitk.GetImageFromArray(np.ascontiguousarray(mask, np.uint8))
    shrink = [max(1, -(-n // N4_LARGEST)) for n in full.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(iterations))
    n4.SetNumberOfWorkUnits(1)
    n4.Execute(sitk.Shrink(full, shrink), sitk.Shrink(inside, shrink))
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full)).astype(np.float32)
    log_field -= log_field[mask].mean()
    return np.exp(log_field)
