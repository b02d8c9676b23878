"""Label protocols: what the annotators were told to draw (concept shift). Numpy only, no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from shiftbench.errors import SpecError, nearest
from shiftbench.shifts import contours, regions
from shiftbench.shifts.drawing import STEPS, Scene, values_of
from shiftbench.shifts.rules import PROTOCOLS, RATER_STYLES, Choice, Rule

__all__ = ["PROTOCOLS", "Rule", "check_protocol", "reference"]

BACKGROUND = "background"
RIM = "rim"  # lesions' fine labels with this word in them are what `lesion_in_organ` = "rim_excluded" leaves out
CYST = "cyst"  # lesions' fine labels with this word in them are cysts for `lesion_in_organ`, the others tumours

OptionalMembers = Mapping[str, tuple[str, str]]
AlternativeMembers = Mapping[str, tuple[str, Mapping[str, str]]]


def check_protocol(
    protocol: Mapping[str, Any],
    optional_members: OptionalMembers,
    where: object = None,
    *,
    alternative_members: AlternativeMembers | None = None,
    structures: Sequence[str] | None = None,
    things: Collection[str] | None = None,
    ndim: int | None = None,
) -> dict[str, Choice]:
    """The protocol table of a scenario, completed by its `rater_style` and the defaults of `PROTOCOLS`.

    Args:
        protocol: rule -> value, or -> { structure = value } for a rule on structures.
        optional_members: of the dataset: fine label -> (structure, rule).
        where: file and key, for the message.
        alternative_members: of the dataset: fine label -> (rule, {choice: structure}).
        structures: what is segmented, where that is known; else names of structures are not checked.
        things: structures of the dataset that are made of lesions, where that is known.
        ndim: 2 or 3, where that is known.

    Raises:
        SpecError: unknown rule or value (with the nearest known one), a rule on a sub-structure or on lesions that the
            dataset does not have, or a rule of volumes on pictures.
    """
    available = {rule for _, rule in optional_members.values()} | {r for r, _ in (alternative_members or {}).values()}
    no_lesions = things is not None and structures is not None and not set(things) & set(structures)
    for name, value in protocol.items():
        if name not in PROTOCOLS:
            raise SpecError(f"unknown protocol rule '{name}'", where=where, remedy=nearest(name, PROTOCOLS))
        rule = PROTOCOLS[name]
        _check_value(rule, value, structures, where)
        needed = name if rule.substructure else rule.about
        if needed and needed not in available:
            raise SpecError(
                f"protocol rule '{name}' needs a sub-structure that the dataset has no labels of",
                where=where,
                remedy="leave it out or use another dataset",
            )
        if value == rule.default:
            continue
        if "volume" in rule.requires and ndim == 2:
            raise SpecError(
                f"protocol rule '{name}' is defined for volumes, not pictures", where=where, remedy="leave it out"
            )
        if rule.scope == "lesions" and no_lesions and not isinstance(value, Mapping):
            raise SpecError(
                f"protocol rule '{name}' needs a structure that is made of lesions",
                where=where,
                remedy=f"name the structures that it is for: {name} = {{ structure = {value} }}",
            )
    style = RATER_STYLES[protocol.get("rater_style", "neutral")]
    return {name: protocol.get(name, style.get(name, rule.default)) for name, rule in PROTOCOLS.items()}


def _check_value(rule: Rule, value: Any, structures: Sequence[str] | None, where: object) -> None:
    """Refuses a value that a rule does not know."""
    if rule.name == "reassign":
        if value != rule.default and not isinstance(value, Mapping):
            raise SpecError(f"reassign = {value!r}", where=where, remedy="write reassign = { label = 'structure' }")
        return
    if isinstance(value, Mapping) and rule.scope != "dataset":
        for structure, own in value.items():
            if structures is not None and structure not in structures:
                known = nearest(structure, structures)
                raise SpecError(f"{rule.name}: unknown structure '{structure}'", where=where, remedy=known)
            if isinstance(own, Mapping):
                raise SpecError(f"{rule.name}: {structure} = {own!r}", where=where, remedy="give one value")
            _check_value(rule, own, structures, where)
    elif rule.name == "order" and isinstance(value, list | tuple):
        unknown = [name for name in value if structures is not None and name not in structures]
        if unknown or len(set(value)) < len(value):
            raise SpecError(f"order = {list(value)!r}", where=where, remedy="list structures, each at most once")
    elif rule.choices and (not isinstance(value, str) or value not in rule.choices):
        raise SpecError(f"{rule.name} = {value!r}", where=where, remedy=nearest(str(value), rule.choices))
    elif not rule.choices:
        low, high = rule.range
        number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not number or (rule.whole and value != int(value)):
            kind = "whole numbers from " if rule.whole else ""
            raise SpecError(
                f"{rule.name} = {value!r}", where=where, remedy=f"use {kind}{low:g} to {high:g} {rule.unit}"
            )


def reference(
    fine: np.ndarray,
    instances: np.ndarray | None,
    *,
    fine_labels: Sequence[str],
    members: Mapping[str, Sequence[str]],
    optional_members: OptionalMembers,
    structures: Sequence[str],
    protocol: Mapping[str, Any],
    spacing: Sequence[float] | None,
    things: Collection[str] | None = None,
    alternative_members: AlternativeMembers | None = None,
    affine: np.ndarray | None = None,
    lesion_map: np.ndarray | None = None,
    barriers: Collection[str] = (),
    stuff: Collection[str] = (),
) -> np.ndarray:
    """What annotators draw under a protocol, uint8 (*s): 0, then one label per structure in the order given.

    A later structure is drawn over an earlier one, so a lesion comes after its organ (rule `order` changes that). The
    rules act in the order of `PROTOCOLS`: first what belongs to a structure, then which lesions and parts are drawn,
    then how the contour runs. A structure grows into background and stuff alone, never into another structure of the
    dataset; but a lesion grows within its organ. A voxel that a structure gives up falls to the structure beneath it,
    or else to the background. A structure that the protocol removes altogether is missing from the reference: an empty
    reference is a result.

    Args:
        fine: fine labels (*s), values are indices of `fine_labels`.
        instances: instance ids (*s), 0 elsewhere, or None.
        fine_labels: names of the fine labels.
        members: structure -> fine labels that always belong to it.
        optional_members: fine label -> (structure, rule) of a sub-structure that a protocol includes or excludes.
        structures: what is segmented, at most 255.
        protocol: rule -> value; defaults where it says nothing.
        spacing: voxel size in mm in axis order, or None (then the values in mm are pixels).
        things: structures made of lesions; by default those that hold instances, or all of them where there are no
            instances.
        alternative_members: fine label -> (rule, {choice: structure}) of a sub-structure that belongs to one structure
            or to another.
        affine: (4, 4), voxel index to RAS mm, for rules with a direction.
        lesion_map: (*s), standard deviations above normal-appearing tissue, for `penumbra_z`.
        barriers: fine labels that a clinical target does not spread into (bone, the outside).
        stuff: structures that fill the space between organs (fat, muscle): what is taken from them like background.

    Raises:
        SpecError: unknown structure, rule or value, or a rule that the dataset or the image cannot support.
    """
    for name in structures:
        if name not in members:
            raise SpecError(f"unknown structure '{name}'", remedy=nearest(name, members))
    alternative_members = alternative_members or {}
    rules = check_protocol(
        protocol,
        optional_members,
        alternative_members=alternative_members,
        structures=structures,
        things=things,
        ndim=fine.ndim,
    )
    labels = _labels_of(members, optional_members, alternative_members, rules)
    _reassign(labels, rules["reassign"], fine_labels)
    _settle_lesions(labels, members, things or (), str(rules["lesion_in_organ"]))
    masks = {name: _where(fine, fine_labels, own) for name, own in labels.items()}
    lesions = tuple(_lesions(structures, masks, instances, things))
    rims = {label for name in things or () for label in members[name] if RIM in label}
    trees = {s: [f for f, to in optional_members.items() if to == (s, "vessels")] for s in members}
    scene = Scene(
        structures=tuple(structures),
        lesions=lesions,
        things=tuple(things) if things is not None else lesions,
        hosts=_hosts(members, things or (), stuff),
        rules=rules,
        spacing=tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * fine.ndim,
        instances=instances,
        affine=affine,
        lesion_map=lesion_map,
        barrier=_where(fine, fine_labels, barriers),
        vessels={name: _where(fine, fine_labels, own) for name, own in trees.items()},
        rim=_where(fine, fine_labels, rims) if rims else None,
    )
    for name, act in STEPS.items():
        values = values_of(PROTOCOLS[name], rules[name], scene)
        if values:
            masks = act(masks, values, scene)
    order = regions.painting_order(masks, scene.structures, rules["order"])  # type: ignore[arg-type]
    drawn = regions.painted(masks, scene.structures, order)
    sigma = float(rules["axial_smoothing_mm"])  # type: ignore[arg-type]
    return contours.smoothed_slices(drawn, len(structures) + 1, sigma, scene.spacing) if sigma > 0 else drawn


def _labels_of(
    members: Mapping[str, Sequence[str]],
    optional_members: OptionalMembers,
    alternative_members: AlternativeMembers,
    rules: Mapping[str, Choice],
) -> dict[str, list[str]]:
    """Structure -> the fine labels that belong to it under the rules on sub-structures."""
    labels = {name: list(own) for name, own in members.items()}
    for label, (structure, rule) in optional_members.items():
        if structure in labels and rules[rule] in PROTOCOLS[rule].included:
            labels[structure].append(label)
    for label, (rule, structure_of) in alternative_members.items():
        structure = structure_of.get(str(rules[rule]), BACKGROUND)
        if structure in labels:
            labels[structure].append(label)
    return labels


def _reassign(labels: dict[str, list[str]], moves: Choice, fine_labels: Sequence[str]) -> None:
    """Gives fine labels to other structures, in place."""
    for label, structure in moves.items() if isinstance(moves, Mapping) else ():
        if label not in fine_labels:
            raise SpecError(f"reassign: unknown fine label '{label}'", remedy=nearest(label, fine_labels))
        if structure not in labels and structure != BACKGROUND:
            raise SpecError(
                f"reassign: unknown structure '{structure}'", remedy=nearest(str(structure), [*labels, BACKGROUND])
            )
        for name, own in labels.items():
            labels[name] = [other for other in own if other != label] + ([label] if name == structure else [])


def _settle_lesions(
    labels: dict[str, list[str]], members: Mapping[str, Sequence[str]], things: Collection[str], which: str
) -> None:
    """Takes the lesions out of their organs that `lesion_in_organ` leaves out, in place."""
    if which == PROTOCOLS["lesion_in_organ"].default:
        return
    lesions = {label for name in things for label in members[name]}
    if not any(lesions & set(own) for name, own in members.items() if name not in things):
        raise SpecError(
            "protocol rule 'lesion_in_organ' needs lesions inside an organ, of which the dataset has none",
            remedy="leave it out or use another dataset",
        )
    cysts = {label for label in lesions if CYST in label}
    out = {"tumour": cysts, "cyst": lesions - cysts, "none": lesions, "rim_excluded": set()}[which]
    for name in set(labels) - set(things):
        labels[name] = [label for label in labels[name] if label not in out]


def _where(fine: np.ndarray, fine_labels: Sequence[str], labels: Collection[str]) -> np.ndarray:
    """Where the fine labels are among some of them, bool (*s)."""
    for label in labels:
        if label not in fine_labels:
            raise SpecError(f"unknown fine label '{label}'", remedy=nearest(label, fine_labels))
    return np.isin(np.arange(len(fine_labels)), [fine_labels.index(label) for label in labels])[fine]


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


def _hosts(
    members: Mapping[str, Sequence[str]], things: Collection[str], stuff: Collection[str]
) -> dict[str, frozenset[str]]:
    """Structures that each may grow into: stuff, what it is part of, or every organ for a lesion that is in none."""
    hosts = {}
    for name, own in members.items():
        around = {other for other, theirs in members.items() if other != name and set(own) < set(theirs)}
        if name in things and not around:
            around = set(members) - set(things)
        hosts[name] = frozenset(around | set(stuff))
    return hosts
