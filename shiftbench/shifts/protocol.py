"""Label protocols: what the annotators were told to draw (concept shift). Numpy only, no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import edt
import numpy as np

from shiftbench.errors import SpecError, nearest

Choice = str | float


@dataclass(frozen=True)
class Rule:
    """One rule of a protocol.

    Attributes:
        name: the key in a scenario's `protocol` table.
        version: raised when the same value gives other references.
        parameter: what the value means.
        unit: of the value ("" for choices).
        default: the value where a protocol says nothing.
        choices: the values allowed, for a rule without order.
        levels: values of severity 1 to 5, for an ordered rule.
        range: smallest and largest value, for an ordered rule.
        reference: source.
        substructure: whether it is about fine labels that a dataset must declare (`optional_members`).
    """

    name: str
    version: int
    parameter: str
    unit: str
    default: Choice
    choices: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    range: tuple[float, float] = (0.0, 0.0)
    reference: str = ""
    substructure: bool = False


# in the order in which they are applied
PROTOCOLS: dict[str, Rule] = {
    "hilum": Rule(
        name="hilum",
        version=1,
        parameter="whether the hilum (vessels and fat at the entry of an organ) belongs to it",
        unit="",
        default="excluded",
        choices=("included", "excluded"),
        reference="liver hilum: 3D-IRCADb, SLIVER07 and LiTS differ; kidney sinus: Heller et al., KiTS",
        substructure=True,
    ),
    "vessels": Rule(
        name="vessels",
        version=1,
        parameter="whether the large vessels inside an organ belong to it",
        unit="",
        default="included",
        choices=("included", "excluded"),
        reference="intrahepatic vessels are 9.7 % of the liver on CT; volumetry leaves them out",
        substructure=True,
    ),
    "min_lesion_mm3": Rule(
        name="min_lesion_mm3",
        version=1,
        parameter="smallest lesion that is drawn",
        unit="mm3",
        default=0.0,
        levels=(3.0, 9.0, 27.0, 64.0, 125.0),
        range=(0.0, 1e6),
        reference="Malinin et al., Shifts 2.0, 2022: lesions below 9 voxels are dropped",
    ),
    "margin_mm": Rule(
        name="margin_mm",
        version=1,
        parameter="distance of the contour from the surface, positive outside",
        unit="mm",
        default=0.0,
        levels=(1.0, 2.0, 3.0, 5.0, 8.0),
        range=(-20.0, 20.0),
        reference="inner or outer edge: Kuijf et al., WMH challenge, IEEE Trans Med Imaging 38:2556, 2019",
    ),
    "axial_smoothing_mm": Rule(
        name="axial_smoothing_mm",
        version=1,
        parameter="SD of the smoothing of a contour drawn by hand, slice by slice",
        unit="mm",
        default=0.0,
        levels=(1.0, 2.0, 3.0, 4.0, 6.0),
        range=(0.0, 20.0),
        reference="contours of radiotherapy are drawn in axial slices",
    ),
}


def check_protocol(
    protocol: Mapping[str, Any], optional_members: Mapping[str, tuple[str, str]], where: object = None
) -> dict[str, Choice]:
    """The protocol table of a scenario, completed by the defaults of `PROTOCOLS`.

    Args:
        protocol: rule -> value.
        optional_members: of the dataset: fine label -> (structure, rule).
        where: file and key, for the message.

    Raises:
        SpecError: unknown rule or value (with the nearest known one), or a rule on a sub-structure that the dataset
            does not have.
    """
    available = {rule for _, rule in optional_members.values()}
    for name, value in protocol.items():
        if name not in PROTOCOLS:
            raise SpecError(f"unknown protocol rule '{name}'", where=where, remedy=nearest(name, PROTOCOLS))
        rule = PROTOCOLS[name]
        if rule.choices and value not in rule.choices:
            raise SpecError(f"{name} = {value!r}", where=where, remedy=nearest(str(value), rule.choices))
        low, high = rule.range
        if not rule.choices and (
            isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high
        ):
            raise SpecError(f"{name} = {value!r}", where=where, remedy=f"use {low:g} to {high:g} {rule.unit}")
        if rule.substructure and name not in available:
            raise SpecError(
                f"protocol rule '{name}' needs a sub-structure that the dataset has no labels of",
                where=where,
                remedy="leave it out or use another dataset",
            )
    return {name: protocol.get(name, rule.default) for name, rule in PROTOCOLS.items()}


def reference(
    fine: np.ndarray,
    instances: np.ndarray | None,
    *,
    fine_labels: Sequence[str],
    members: Mapping[str, Sequence[str]],
    optional_members: Mapping[str, tuple[str, str]],
    structures: Sequence[str],
    protocol: Mapping[str, Any],
    spacing: Sequence[float] | None,
    things: Collection[str] | None = None,
) -> np.ndarray:
    """What annotators draw under a protocol, uint8 (*s): 0, then one label per structure in the order given.

    A later structure is drawn over an earlier one, so a lesion comes after its organ. The rules act in the order of
    `PROTOCOLS`: first what belongs to a structure, then which lesions are drawn, then the margin, then the smoothing.
    A voxel that a structure gives up falls to the structure beneath it, or else to the background.

    Args:
        fine: fine labels (*s), values are indices of `fine_labels`.
        instances: instance ids (*s), 0 elsewhere, or None.
        fine_labels: names of the fine labels.
        members: structure -> fine labels that always belong to it.
        optional_members: fine label -> (structure, rule) of a sub-structure that a protocol includes or excludes.
        structures: what is segmented, at most 255.
        protocol: rule -> value; defaults where it says nothing.
        spacing: voxel size in mm in axis order, or None (then the values in mm are pixels).
        things: structures made of lesions, for `min_lesion_mm3`; by default those that hold instances, or all of them
            where there are no instances.

    Raises:
        SpecError: unknown structure, rule or value, or a rule on a sub-structure that the dataset does not have.
    """
    rules = check_protocol(protocol, optional_members)
    for name in structures:
        if name not in members:
            raise SpecError(f"unknown structure '{name}'", remedy=nearest(name, members))
    mm = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * fine.ndim
    index = {name: i for i, name in enumerate(fine_labels)}
    labels = _labels_of(members, optional_members, rules)
    masks = {name: np.isin(fine, [index[label] for label in labels[name]]) for name in members}
    smallest = float(rules["min_lesion_mm3"])
    if smallest > 0:
        for name in _lesions(structures, masks, instances, things):
            masks[name] = without_small(masks[name], instances, smallest, mm)
    margin = float(rules["margin_mm"])
    if margin:
        masks = with_margin(masks, structures, margin, mm)
    drawn = np.zeros(fine.shape, np.uint8)
    for i, name in enumerate(structures, start=1):
        drawn[masks[name]] = i
    sigma = float(rules["axial_smoothing_mm"])
    return smoothed_slices(drawn, len(structures) + 1, sigma, mm) if sigma > 0 else drawn


def _labels_of(
    members: Mapping[str, Sequence[str]], optional_members: Mapping[str, tuple[str, str]], rules: Mapping[str, Choice]
) -> dict[str, list[str]]:
    """Structure -> the fine labels that belong to it under the rules."""
    labels = {name: list(own) for name, own in members.items()}
    for label, (structure, rule) in optional_members.items():
        if structure in labels and rules[rule] == "included":
            labels[structure].append(label)
    return labels


def _lesions(
    structures: Sequence[str],
    masks: Mapping[str, np.ndarray],
    instances: np.ndarray | None,
    things: Collection[str] | None,
) -> list[str]:
    """Which of `structures` are made of lesions."""
    if things is not None:
        return [name for name in structures if name in things]
    if instances is None:
        return list(structures)
    counted = instances > 0
    return [name for name in structures if masks[name].any() and counted[masks[name]].all()]


def without_small(
    mask: np.ndarray, instances: np.ndarray | None, smallest_mm3: float, spacing: tuple[float, ...]
) -> np.ndarray:
    """The mask (*s) without its lesions below a volume; a new array.

    A lesion is an instance, or a 26-connected piece (8-connected in 2-D) of what has no instance. In 2-D the limit is
    the area of the great disc of a sphere of that volume.
    """
    limit = smallest_mm3 if mask.ndim == 3 else np.pi * (3 * smallest_mm3 / (4 * np.pi)) ** (2 / 3)
    ids = np.zeros(mask.shape, np.int64) if instances is None else np.where(mask, instances, 0).astype(np.int64)
    pieces = cc3d.connected_components((mask & (ids == 0)).astype(np.uint8), connectivity=26 if mask.ndim == 3 else 8)
    ids += np.where(pieces > 0, pieces.astype(np.int64) + ids.max(), 0)
    sizes = np.bincount(ids.ravel()) * float(np.prod(spacing))
    return mask & (sizes[ids] >= limit)


def with_margin(
    masks: Mapping[str, np.ndarray], structures: Sequence[str], margin: float, spacing: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """Masks (*s) whose surfaces are moved by `margin` in the unit of `spacing`, outwards where it is positive.

    Outwards a structure takes background alone: neither a voxel of another structure of the dataset nor one that an
    earlier structure has taken. Inwards the voxels within the margin are given up, which opens gaps between
    neighbours; the edge of the image is no surface. Distances are Euclidean between voxel centres, and a quarter of
    the smallest voxel side is added to the margin: without it the surface of a ball moves by that much too little,
    with half a side by as much too far. A margin below 0.75 sides does nothing.
    """
    moved = dict(masks)
    reach = abs(margin) + 0.25 * min(spacing)
    if margin < 0:
        for name in structures:
            if masks[name].any():
                moved[name] = masks[name] & (_distance_to(~masks[name], spacing) > reach)
        return moved
    taken = np.any(list(masks.values()), axis=0)
    for name in structures:
        if masks[name].any():
            grown = ~taken & (_distance_to(masks[name], spacing) <= reach)
            moved[name] = masks[name] | grown
            taken |= grown
    return moved


def _distance_to(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (*s) from every voxel centre to the nearest voxel centre of `mask`, inf where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return edt.edt(np.ascontiguousarray(~mask), anisotropy=spacing, black_border=False)


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
