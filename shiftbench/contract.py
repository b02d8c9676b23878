"""What a method may require, what its track grants it, and what it must return; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shiftbench import instances
from shiftbench.errors import MethodError
from shiftbench.tasks import Task
from shiftbench.types import Access, Estimator, LabelledSet, Method, Prediction, Recipe, Track, UnlabelledSet

REQUIREMENTS = ("batch_norm", "instance_norm_affine", "norm_affine", "features")
NORMALISATION_TOLERANCE = 1e-2  # of the log of the sum of probabilities: room for half precision
SIDECAR_BYTES = 2**20

# What of `Access` a track is handed (METHODS.md 0.3); FEWSHOT gets K labelled target cases, REFERENCE all of `adapt`.
GRANTS: dict[Track, frozenset[str]] = {
    Track.DG: frozenset(),
    Track.HARMONISE: frozenset({"sidecar"}),
    Track.UDA: frozenset({"source", "source_val", "target"}),
    Track.SFDA: frozenset({"sidecar", "target"}),
    Track.TTA: frozenset({"sidecar"}),
    Track.FEWSHOT: frozenset({"sidecar", "fewshot", "source"}),
    Track.REFERENCE: frozenset({"fewshot"}),
    Track.ESTIMATE: frozenset({"source_val"}),
}


def grant(
    method: Method | Estimator,
    *,
    recipe: Recipe,
    source: LabelledSet | None = None,
    source_val: LabelledSet | None = None,
    target: UnlabelledSet | None = None,
    labelled_target: LabelledSet | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Access:
    """Exactly what the method's track entitles it to.

    Args:
        method: its track decides; `k`, where it has one, is the number of labelled target cases (a prefix).
        recipe: the budget's.
        source: training cases.
        source_val: held-out source cases.
        target: unlabelled `adapt` cases.
        labelled_target: all `adapt` cases with references, in the order few-shot draws take their prefixes from.
        sidecar: what `summarise` returned.
    """
    allowed = GRANTS[method.track]
    offered = {"source": source, "source_val": source_val, "target": target, "fewshot": labelled_target}
    given: dict[str, Any] = {name: value for name, value in offered.items() if name in allowed}
    k = getattr(method, "k", None)
    if given.get("fewshot") is not None and method.track is Track.FEWSHOT and k is not None:
        given["fewshot"] = _first(given["fewshot"], k)
    return Access(recipe=recipe, sidecar=dict(sidecar or {}) if "sidecar" in allowed else {}, **given)


def _first(cases: LabelledSet, k: int) -> LabelledSet:
    ids = None if cases.instances is None else cases.instances[:k]
    return LabelledSet(cases.images[:k], cases.references[:k], cases.patients[:k], ids)


def decode_prediction(prediction: Prediction, image: Any, task: Task) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels, uint8 (*s), of a prediction, and the instance ids of its things, int32 (*s); None in semantic tasks.

    Ids are the method's own where it gives some, else they are decoded from its heads, else things are counted by
    connected components. Every thing voxel gets an id of one class, and nothing else has one.

    Raises:
        MethodError: as `validate_prediction`.
    """
    labels = validate_prediction(prediction, image, task.classes, heads=len(task.heads))
    if not task.counts_instances:
        return labels, None
    if prediction.instances is not None:
        own = prediction.instances.detach().to("cpu").numpy()
        return instances.without_small(labels, instances.settled(labels, own, task.things), task.min_voxels)
    heads = None if prediction.heads is None else prediction.heads.detach().float().to("cpu").numpy()
    return instances.separate(labels, heads, task)


def validate_prediction(prediction: Prediction, image: Any, classes: int, *, heads: int = 0) -> np.ndarray:
    """Labels, uint8 (*s), of a prediction for the raw case `image` (c, *s); the argmax where it gives none itself.

    Args:
        prediction: what a method returned.
        image: the case.
        classes: background and structures.
        heads: of the task; a prediction holds the outputs of all of them, or of none.

    Raises:
        MethodError: as `check_form`, or NaN or infinity, log-probabilities that are not normalised, a label outside
            0..classes-1, or a negative instance id.
    """
    check_form(prediction, image, classes, heads=heads)
    scores, labels = prediction.log_probabilities, prediction.labels
    for name in ("log_probabilities", "uncertainty", "heads"):
        array = getattr(prediction, name)
        if array is not None and not bool(array.isfinite().all()):
            raise MethodError(f"{name} holds NaN or infinity", remedy="return finite values")
    if scores is not None:
        excess = float(scores.float().logsumexp(0).abs().max())
        if excess > NORMALISATION_TOLERANCE:
            raise MethodError("log_probabilities do not add up to one", remedy="return logits.log_softmax(0)")
    if prediction.instances is not None and int(prediction.instances.min()) < 0:
        raise MethodError("instances has negative ids", remedy="give 0 where there is no thing")
    if labels is None:
        return scores.detach().max(0).indices.to("cpu").numpy().astype(np.uint8)  # type: ignore[union-attr]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise MethodError(f"labels run from {low} to {high}", remedy=f"give labels from 0 to {classes - 1}")
    return labels.detach().to("cpu").numpy().astype(np.uint8)


def check_form(prediction: Any, image: Any, classes: int, *, heads: int = 0) -> None:
    """That a prediction for `image` is one of tensors of the right shapes and kinds; arguments as above.

    Raises:
        MethodError: it is not, whatever the values are.
    """
    if not isinstance(prediction, Prediction):
        raise MethodError(f"returned a {type(prediction).__name__}", remedy="return a shiftbench.api.Prediction")
    if prediction.log_probabilities is None and prediction.labels is None:
        raise MethodError("returned an empty Prediction", remedy="give log_probabilities or labels")
    for name, (shape, floating) in forms(image, classes, heads=heads).items():
        array = getattr(prediction, name)
        if array is not None:
            _check_array(name, array, shape, floating=floating)


def forms(image: Any, classes: int, *, heads: int = 0) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of each array that a prediction for `image` (c, *s) may hold, and whether it is of floats."""
    grid = tuple(image.shape[1:])
    scores, raw = (classes, *grid), (heads, *grid)
    return {
        "log_probabilities": (scores, True),
        "labels": (grid, False),
        "uncertainty": (grid, True),
        "heads": (raw, True),
        "instances": (grid, False),
    }


def validate_estimates(values: Any, cases: int, structures: int) -> tuple[np.ndarray, list[MethodError | None]]:
    """Estimates as float64 (cases, structures), and per case what is wrong with them, or None.

    Raises:
        MethodError: as `check_estimates`, so that no case has an estimate.
    """
    check_estimates(values, cases, structures)
    found = values.detach().double().to("cpu").numpy()
    return found, [_fault(of_case) for of_case in found]


def check_estimates(values: Any, cases: int, structures: int) -> None:
    """That estimates are a tensor of the right shape and kind.

    Raises:
        MethodError: they are not, whatever the values are.
    """
    if not hasattr(values, "is_floating_point"):
        raise MethodError(f"estimate returned a {type(values).__name__}", remedy="return a torch tensor")
    if tuple(values.shape) != (cases, structures):
        remedy = f"give one value per image and structure, {(cases, structures)}"
        raise MethodError(f"the estimates have the shape {tuple(values.shape)}", remedy=remedy)
    if not values.is_floating_point():
        raise MethodError(f"the estimates have the dtype {values.dtype}", remedy="give floats")


def _fault(values: np.ndarray) -> MethodError | None:
    if not np.isfinite(values).all():
        return MethodError("an estimate is NaN or infinite", remedy="return finite values")
    outside = values[(values < 0) | (values > 1)]
    return MethodError(f"the estimate {outside[0]:g} is no DSC", remedy="clip to [0, 1]") if outside.size else None


def _check_array(name: str, array: Any, shape: tuple[int, ...], *, floating: bool) -> None:
    if not hasattr(array, "is_floating_point"):
        raise MethodError(f"{name} is a {type(array).__name__}", remedy="give a torch tensor")
    if tuple(array.shape) != shape:
        raise MethodError(f"{name} has the shape {tuple(array.shape)}", remedy=f"give the image's grid, {shape}")
    if array.is_complex() or array.is_floating_point() != floating:
        raise MethodError(f"{name} has the dtype {array.dtype}", remedy=f"give {'floats' if floating else 'integers'}")
