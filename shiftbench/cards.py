"""Shift cards: how far a target moved from its source in images, labels and patients; computed, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import ks_2samp, wasserstein_distance

from shiftbench.domains import Part, about, load_image, load_reference, not_applicable
from shiftbench.metrics import dsc
from shiftbench.rng import generator
from shiftbench.store import Store

VERSION = 1
MIN_PATIENTS = 5  # fewer cannot be cross-validated
PERMUTATIONS = 99
RING_VOXELS = 3  # width of the surroundings that a structure's contrast is taken against
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)


def shift_card(store: Store, *, source: Part, target: Part, redrawn: Part, structures: Sequence[str]) -> dict[str, Any]:
    """How far P(X), the label rule and P(Y) moved between the test cases of a source and a target.

    Args:
        store: with images and references of the parts.
        source: test cases of the source.
        target: test cases of the target.
        redrawn: those of the target as the source's annotators would have drawn them.
        structures: in label order.

    Returns:
        Nested mappings of numbers, None where there is nothing to compute from: `cases`; `images` (classifier
        two-sample test, contrast of each structure); `protocol` (DSC and relative volume of the target's rule against
        the source's on the target's patients); `labels` (volume and number of parts of each structure); `attributes`.
    """
    parts = {"source": source, "target": target}
    cases = {name: _described(store, part, structures) for name, part in parts.items()}
    cases["redrawn"] = _described(store, redrawn, structures)
    return {
        "cases": {name: len(cases[name]) for name in parts},
        "images": {
            "two_sample": two_sample(cases["source"], cases["target"]),
            "contrast": {
                structure: {
                    "source": _mean(case["contrast"][structure] for case in cases["source"]),
                    "target": _mean(case["contrast"][structure] for case in cases["redrawn"]),
                }
                for structure in structures
            },
        },
        "protocol": _protocol(store, target, redrawn, structures),
        "labels": {structure: _labels(cases, structure) for structure in structures},
        "attributes": _attributes(cases["source"], cases["target"]),
    }


def _described(store: Store, part: Part, structures: Sequence[str]) -> list[dict[str, Any]]:
    """Features of the image, contrast, volume and number of parts of each structure, attributes; case by case."""
    missing = not_applicable(store, part)
    found = []
    for case, (anatomy_key, images_key, references_key) in part.where().items():
        if case in missing:
            continue
        info = about(store, anatomy_key, case)
        image, reference = load_image(store, images_key, case), load_reference(store, references_key, case)
        voxel = float(np.prod(info["spacing"])) / 1000 if info["spacing"] else 1.0  # mL, or pixels
        masks = {name: reference == label for label, name in enumerate(structures, start=1)}
        found.append(
            {
                "patient": info["patient"],
                "attributes": info["attributes"],
                "features": features(image),
                "contrast": {name: contrast(image[0], mask, reference > 0) for name, mask in masks.items()},
                "volume": {name: float(mask.sum()) * voxel for name, mask in masks.items()},
                "parts": {
                    name: float(ndimage.label(mask, np.ones((3,) * mask.ndim))[1]) for name, mask in masks.items()
                },
            }
        )
    return found


def features(image: np.ndarray) -> np.ndarray:
    """Simple features of a raw image (c, *s): mean, SD, percentiles, and the spread of its finest detail."""
    per_channel = []
    for channel in image:
        detail = channel - ndimage.uniform_filter(channel, 3)
        spread = np.median(np.abs(detail)), np.abs(detail).mean()
        per_channel.append([channel.mean(), channel.std(), *np.percentile(channel, PERCENTILES), *spread])
    return np.asarray(per_channel, float).reshape(-1)


def contrast(image: np.ndarray, mask: np.ndarray, any_structure: np.ndarray) -> float | None:
    """Difference of the means inside a structure and around it, over their pooled SD; None for an empty one.

    Args:
        image: (*s).
        mask: bool (*s), the structure.
        any_structure: bool (*s); no other structure counts as surroundings.
    """
    if not mask.any():
        return None
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(0, s.start - RING_VOXELS), s.stop + RING_VOXELS) for s in box)
    inside = mask[box]
    around = ndimage.binary_dilation(inside, iterations=RING_VOXELS) & ~any_structure[box]
    if not around.any():
        return None
    one, other = image[box][inside], image[box][around]
    pooled = float(np.sqrt((one.var() + other.var()) / 2))
    return float(one.mean() - other.mean()) / pooled if pooled > 0 else None


def two_sample(source: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Classifier two-sample test: cross-validated AUC of a logistic regression that tells the domains apart.

    A patient is never in training and test at once. Labels are permuted within patients who are in both domains, and
    over all patients otherwise. p = (1 + number of permuted AUCs at least as large) / (1 + permutations).

    Reference:
        Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017.
    """
    patients = np.array([case["patient"] for case in (*source, *target)])
    names, groups = np.unique(patients, return_inverse=True)
    of_domain = [len({case["patient"] for case in domain}) for domain in (source, target)]
    if min(of_domain) < MIN_PATIENTS:
        return {"auc": None, "p": None}
    x = np.stack([case["features"] for case in (*source, *target)])
    y = np.repeat([0, 1], [len(source), len(target)])
    rng = generator(0, "two-sample test", names.tolist())
    fold = rng.permutation(np.arange(len(names)) % MIN_PATIENTS)[groups]
    auc = _auc(x, y, fold)
    paired = all(len(set(y[groups == g])) == 2 for g in range(len(names)))
    at_least = sum(_auc(x, _permuted(y, groups if paired else None, rng), fold) >= auc for _ in range(PERMUTATIONS))
    return {"auc": auc, "p": (1 + at_least) / (1 + PERMUTATIONS)}


def _permuted(y: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Labels permuted, or exchanged within each group with probability one half."""
    if groups is None:
        return rng.permutation(y)
    return np.where(rng.integers(0, 2, groups.max() + 1)[groups] == 1, 1 - y, y)


def _auc(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """Area under the ROC curve of out-of-fold decisions."""
    from sklearn.linear_model import LogisticRegression  # a second that no other data task needs
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    decisions = np.zeros(len(y))
    for held in np.unique(fold):
        seen = fold != held
        if len(set(y[seen])) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        decisions[~seen] = model.fit(x[seen], y[seen]).predict_proba(x[~seen])[:, 1]
    return float(roc_auc_score(y, decisions))


def _protocol(store: Store, target: Part, redrawn: Part, structures: Sequence[str]) -> dict[str, Any]:
    """DSC between the two rules and volume of the target's over the source's, on the same patients."""
    own, other = target.where(), redrawn.where()
    scores: dict[str, list[float | None]] = {name: [] for name in structures}
    volumes = {name: [0, 0] for name in structures}
    for case, (_, _, references_key) in own.items():
        drawn = load_reference(store, references_key, case)
        by_source = drawn if references_key == other[case][2] else load_reference(store, other[case][2], case)
        for label, name in enumerate(structures, start=1):
            scores[name].append(dsc(by_source == label, drawn == label))
            volumes[name][0] += int((by_source == label).sum())
            volumes[name][1] += int((drawn == label).sum())
    return {name: {"dsc": _mean(scores[name]), "volume_ratio": _ratio(*volumes[name])} for name in structures}


def _labels(cases: Mapping[str, Sequence[Mapping[str, Any]]], structure: str) -> dict[str, Any]:
    """Prevalence, and how the distributions of volume and number of parts moved; as drawn, and by one rule."""
    values = {
        (name, kind): [case[kind][structure] for case in own]
        for name, own in cases.items()
        for kind in ("volume", "parts")
    }
    present = {name: [float(v > 0) for v in values[name, "volume"]] for name in cases}
    return {
        "prevalence": {name: _mean(present[name]) for name in ("source", "target")},
        "volume": _moved(values["source", "volume"], values["target", "volume"]),
        "parts": _moved(values["source", "parts"], values["target", "parts"]),
        "volume_by_the_source_rule": _moved(values["source", "volume"], values["redrawn", "volume"]),
    }


def _moved(source: Sequence[float], target: Sequence[float]) -> dict[str, float | None]:
    """Medians, Wasserstein distance and the Kolmogorov-Smirnov statistic with its p; patients taken as independent."""
    if not source or not target:
        return dict.fromkeys(("source_median", "target_median", "wasserstein", "ks", "ks_p"))
    test = ks_2samp(source, target)
    return {
        "source_median": float(np.median(source)),
        "target_median": float(np.median(target)),
        "wasserstein": float(wasserstein_distance(source, target)),
        "ks": float(test.statistic),
        "ks_p": float(test.pvalue),
    }


def _attributes(source: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numeric attributes as distributions, others as shares of their values."""
    tables: dict[str, Any] = {}
    names = sorted({name for case in (*source, *target) for name in case["attributes"]})
    for name in names:
        own, other = ([c["attributes"][name] for c in cases if name in c["attributes"]] for cases in (source, target))
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (*own, *other)):
            tables[name] = _moved([float(v) for v in own], [float(v) for v in other])
        else:
            values = sorted({str(v) for v in (*own, *other)})
            tables[name] = {value: {"source": _share(own, value), "target": _share(other, value)} for value in values}
    return tables


def _share(values: Sequence[Any], value: str) -> float | None:
    return _mean([float(str(v) == value) for v in values])


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _ratio(whole: int, part: int) -> float | None:
    return part / whole if whole else None
