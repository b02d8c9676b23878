"""Losses that know how far from the surface of the reference an error lies: boundary and Hausdorff losses.

Distance maps are made on the CPU for every batch, so on a GPU these losses wait for the batch to be copied there and
back.
"""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
import torch
from torch import Tensor

from shiftbench.losses.inputs import labels_of, one_hot, structure_mean, wide


def signed_distances(masks: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Signed distance maps of masks (n, *s): minus inside, plus outside, to the centre of the nearest voxel across.

    Args:
        masks: bool. What lies outside the array is not looked at.
        spacing: voxel size per spatial axis, in axis order; None for distances in voxels.

    Returns:
        float32 (n, *s) on the device of the masks; zeros for a mask that is empty or full, which has no surface.
    """
    planes = masks.detach().cpu().numpy().astype(bool)
    size = (1.0,) * (planes.ndim - 1) if spacing is None else tuple(float(s) for s in spacing)
    maps = np.zeros(planes.shape, np.float32)
    for plane, out in zip(planes, maps, strict=True):
        if plane.any() and not plane.all():
            outside = edt.edt(~plane, anisotropy=size, black_border=False, parallel=1)
            inside = edt.edt(plane, anisotropy=size, black_border=False, parallel=1)
            out[:] = outside - inside
    return torch.from_numpy(maps).to(masks.device)


def _structure_maps(structures: Tensor, spacing: Sequence[float] | None) -> Tensor:
    """Signed distance maps of structures (b, k - 1, *s), sample by sample and structure by structure."""
    return signed_distances(structures.flatten(0, 1) > 0.5, spacing).unflatten(0, structures.shape[:2])


def _per_structure(values: Tensor, ignore: Tensor | None) -> Tensor:
    """Mean over the batch's voxels that count, (b, k - 1, *s) to (k - 1,); 0 where all are ignored."""
    axes = (0, *range(2, values.ndim))
    if ignore is None:
        return values.mean(axes)
    counted = (~ignore).sum().clamp_min(1)
    return values.masked_fill(ignore[:, None], 0.0).sum(axes) / counted


def boundary(
    logits: Tensor,
    reference: Tensor,
    *,
    ignore: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Boundary loss: the mean over voxels of probability times signed distance to the reference's surface.

    It is the less, the more of the probability lies deep inside the reference, so it may be negative, and it says
    nothing of a sample that has no surface; it is meant to be added to Dice or cross-entropy, with a weight that grows.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing. A structure ends where they begin.
        class_weights: k weights, background first; relative weights of the structures (the background's is not used).
        spacing: voxel size per spatial axis; None for distances in voxels.

    Returns:
        The mean over structures, in the unit of the distances. Samples without the structure add 0 and no gradient.

    Reference:
        Kervadec, Bouchtiba, Desrosiers, Granger, Dolz, Ben Ayed, Boundary loss for highly unbalanced segmentation,
        MIDL 2019; Medical Image Analysis 67, 2021.
    """
    p = wide(logits).softmax(1)
    y = one_hot(labels_of(reference, ignore), p.shape[1], p.dtype)[:, 1:]
    maps = _structure_maps(y, spacing).to(p.dtype)
    return structure_mean(_per_structure(p[:, 1:] * maps, ignore), class_weights)


def hausdorff(
    logits: Tensor,
    reference: Tensor,
    *,
    ignore: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    alpha: float = 2.0,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Hausdorff loss by distance transforms: the mean over voxels of (p - y)^2 (d_p^alpha + d_y^alpha).

    d_p and d_y are the unsigned distances to the surface of the prediction (p > 1/2, no gradient) and of the reference.
    MONAI's HausdorffDTLoss is the same without ignore mask, class weights and spacing.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing. A structure ends where they begin.
        class_weights: k weights, background first; relative weights of the structures (the background's is not used).
        alpha: how much the farthest errors count.
        spacing: voxel size per spatial axis; None for distances in voxels.

    Returns:
        The mean over structures, in the unit of the distances to the power alpha. Where a sample has neither the
        structure nor a prediction of it above 1/2, there are no surfaces, and it adds 0 and no gradient.

    Reference:
        Karimi, Salcudean, Reducing the Hausdorff distance in medical image segmentation with convolutional neural
        networks, IEEE Trans. Medical Imaging 39, 2020.
    """
    p = wide(logits).softmax(1)
    y = one_hot(labels_of(reference, ignore), p.shape[1], p.dtype)[:, 1:]
    p = p[:, 1:]
    predicted = p.detach() if ignore is None else p.detach().masked_fill(ignore[:, None], 0.0)
    far = sum(_structure_maps(mask, spacing).to(p.dtype).abs() ** alpha for mask in (predicted, y))
    return structure_mean(_per_structure((p - y) ** 2 * far, ignore), class_weights)
