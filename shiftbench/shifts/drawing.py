"""The rules of a label protocol as they act on masks, in their order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shiftbench.errors import SpecError
from shiftbench.shifts import contours, regions
from shiftbench.shifts.distances import axis_towards, window
from shiftbench.shifts.regions import Masks
from shiftbench.shifts.rules import PROTOCOLS, Choice, Rule


@dataclass(frozen=True)
class Scene:
    """What rules may use besides the masks.

    Attributes:
        structures: what is segmented.
        lesions: those of them that are made of lesions.
        things: all structures of the dataset that are.
        hosts: structure -> structures that it may grow into.
        rules: the protocol, complete.
        spacing: per axis, in mm or pixels.
        instances: ids (*s) or None.
        affine: (4, 4) or None.
        lesion_map: (*s) or None.
        barrier: bool (*s), where a clinical target does not spread.
        vessels: structure -> its vessels, bool (*s).
        rim: the rims of lesions, bool (*s), where the dataset has labels of them.
    """

    structures: tuple[str, ...]
    lesions: tuple[str, ...]
    things: tuple[str, ...]
    hosts: Mapping[str, frozenset[str]]
    rules: Mapping[str, Choice]
    spacing: tuple[float, ...]
    instances: np.ndarray | None
    affine: np.ndarray | None
    lesion_map: np.ndarray | None
    barrier: np.ndarray
    vessels: Masks
    rim: np.ndarray | None

    def towards(self, side: str) -> tuple[int, int]:
        """Axis that runs to a side of the patient, and its sign."""
        return axis_towards(side, self.affine, len(self.spacing))


def values_of(rule: Rule, value: Choice, scene: Scene) -> dict[str, Any]:
    """Structure -> value of a rule, for those that it changes."""
    if isinstance(value, Mapping):
        return {name: value[name] for name in scene.structures if value.get(name, rule.default) != rule.default}
    if value == rule.default:
        return {}
    organs = tuple(name for name in scene.structures if name not in scene.lesions) or scene.structures
    named = {"organs": organs, "lesions": scene.lesions, "targets": scene.lesions or scene.structures}
    return dict.fromkeys(named.get(rule.scope, scene.structures), value)


def _redrawn(
    masks: Masks,
    values: Mapping[str, Any],
    scene: Scene,
    draw: Callable[[np.ndarray, Any], np.ndarray],
    reach: float | None = None,
) -> Masks:
    """Masks in which structures are drawn anew, without what they would take from others.

    Args:
        masks: of all structures of the dataset.
        values: structure -> value.
        scene: what else is known.
        draw: mask and value -> mask.
        reach: how far `draw` looks beyond a mask, or None where it needs the whole image.
    """
    out = dict(masks)
    for name, value in values.items():
        box = window(masks[name], reach or 0.0, scene.spacing)
        if box is None:
            continue
        if reach is None:
            box = (slice(None),) * masks[name].ndim
        mask = masks[name][box]
        new = draw(mask, value)
        for other in masks:
            if other != name and other not in scene.hosts[name]:
                new = new & ~((masks[other][box] | out[other][box]) & ~mask)
        out[name] = np.zeros_like(masks[name])
        out[name][box] = new
    return out


Act = Callable[[Masks, Mapping[str, Any], Scene], Masks]


def _local(draw: Callable[[np.ndarray, Any, tuple[float, ...]], np.ndarray], times: float = 1.0) -> Act:
    """A rule that draws one mask anew and looks no further than `times` its largest value."""

    def act(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
        reach = times * max((abs(v) for v in values.values() if not isinstance(v, str)), default=0.0)
        return _redrawn(masks, values, scene, lambda mask, v: draw(mask, v, scene.spacing), reach + max(scene.spacing))

    return act


def _margin(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    plane = str(scene.rules["margin_plane"])
    return _local(functools.partial(contours.moved, plane=plane))(masks, values, scene)


def _vessels(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    out = dict(masks)
    for name, diameter in values.items():
        tree = scene.vessels[name]
        box = window(tree, 0.0, scene.spacing)
        if box is not None:
            out[name] = masks[name] | tree
            out[name][box] &= ~regions.thick_enough(tree[box], diameter, scene.spacing)
    return out


def _rim(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    thickness = float(scene.rules["lesion_rim_mm"])  # type: ignore[arg-type]
    if scene.rules["lesion_in_organ"] != "rim_excluded":
        return masks
    rims = (
        [scene.rim]
        if scene.rim is not None
        else [regions.rim(masks[n], thickness, scene.spacing) for n in scene.things]
    )
    return {name: mask & ~np.any(rims, axis=0) for name, mask in masks.items()}


def _penumbra(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    lesion_map = scene.lesion_map
    if lesion_map is None:
        raise SpecError(
            "protocol rule 'penumbra_z' needs a map of the lesions that this image has none of",
            remedy="use a phantom, or leave it out",
        )
    return _redrawn(masks, values, scene, lambda mask, z: regions.above_threshold(mask, lesion_map, z))


def _without_small(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    merged = values_of(PROTOCOLS["merge_distance_mm"], scene.rules["merge_distance_mm"], scene)
    out = dict(masks)
    for name, smallest in values.items():
        instances = None if name in merged else scene.instances
        out[name] = regions.without_small(masks[name], instances, smallest, scene.spacing)
    return out


def _landmark(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    named = isinstance(scene.rules["landmark_mm"], Mapping)
    for name, shift in list(values.items())[: None if named else 1]:
        others = [o for o in scene.structures if o != name and o not in scene.lesions]
        if not others:
            raise SpecError("protocol rule 'landmark_mm' needs two structures", remedy="segment a second one")
        masks = regions.with_border_moved(masks, name, others, shift, scene.spacing)
    return masks


def _alveus(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    axis, sign = scene.towards("superior")
    draw = functools.partial(regions.with_layer_above, spacing=scene.spacing, axis=axis, sign=sign)
    return _redrawn(masks, values, scene, draw)


def _tail(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    axis, sign = scene.towards("posterior")
    for length in sorted(set(values.values())):
        names = [name for name, value in values.items() if value == length]
        masks = regions.without_end_of_all(masks, names, length, scene.spacing[axis], axis, sign)
    return masks


def _ends(side: str, unit: str) -> Act:
    def act(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
        axis, sign = scene.towards(side)
        step = scene.spacing[axis] if unit == "mm" else 1.0
        return _redrawn(
            masks,
            values,
            scene,
            lambda mask, length: regions.with_ends(mask, regions.whole_slices(length, step), axis, sign),
        )

    return act


def _laterality(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    def keep(mask: np.ndarray, which: str) -> np.ndarray:
        return regions.largest(mask) if which == "largest" else regions.one_side(mask, *scene.towards(which))

    return _redrawn(masks, values, scene, keep)


def _inflation(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    axis = scene.towards("superior")[0] if len(scene.spacing) == 3 else None
    return _redrawn(masks, values, scene, lambda mask, v: contours.inflated(mask, v, scene.spacing, axis))


def _clinical_target(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    return _redrawn(
        masks, values, scene, lambda mask, mm: contours.clinical_target(mask, mm, scene.spacing, scene.barrier)
    )


def _planning_target(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    back = scene.towards("posterior")
    grown = {
        name: contours.planning_target(masks[name], margin, scene.spacing, back)
        for name, margin in values.items()
        if masks[name].any()
    }
    return {**masks, **grown}


def _sparse(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    how = str(scene.rules["slice_interpolation"])
    return _local(lambda mask, n, mm: contours.interpolated(mask, int(n), mm, how), times=0.0)(masks, values, scene)


def _fov_cut(masks: Masks, values: Mapping[str, Any], scene: Scene) -> Masks:
    cut = {name: regions.without_edge(masks[name], band, scene.spacing) for name, band in values.items()}
    return {**masks, **cut}


# rules that act on masks, in the order of `PROTOCOLS`; what belongs to a structure is settled before, order after
STEPS: dict[str, Act] = {
    "min_vessel_mm": _vessels,
    "lesion_in_organ": _rim,
    "penumbra_z": _penumbra,
    "merge_distance_mm": _local(regions.confluent),
    "min_lesion_mm3": _without_small,
    "hilum_closing_mm": _local(regions.closed),
    "fill_holes": _local(lambda mask, how, mm: regions.holes_filled(mask, how)),
    "vessel_caliber_mm": _local(regions.thick_enough),
    "centreline_mm": _local(regions.centreline),
    "landmark_mm": _landmark,
    "alveus_mm": _alveus,
    "tail_cut_mm": _tail,
    "superior_mm": _ends("superior", "mm"),
    "superior_slices": _ends("superior", "slices"),
    "inferior_mm": _ends("inferior", "mm"),
    "inferior_slices": _ends("inferior", "slices"),
    "laterality": _laterality,
    "wall_mm": _local(contours.moved),
    "inflation_percent": _inflation,
    "margin_mm": _margin,
    "ctv_mm": _clinical_target,
    "ptv_mm": _planning_target,
    "slice_every": _sparse,
    "polygon_mm": _local(contours.decimated),
    "fov_cut_mm": _fov_cut,
}
