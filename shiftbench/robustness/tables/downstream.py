"""What a model behind the segmentation loses: a classifier of lesion type, fed with features of predicted outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from shiftbench.metrics.features import LESION_FEATURES, PREDICTED, REFERENCE, TYPE
from shiftbench.rng import generator
from shiftbench.robustness.patients import ENTRY, plain
from shiftbench.robustness.tables.radiomics import outlines
from shiftbench.stats import crossed_bootstrap
from shiftbench.types import FAILURES, Status

FEWEST_LESIONS = 5  # of a type in the source; rarer types are left out of training and test
FEWEST_PATIENTS = 2  # with a type, so that it is still there when one of them is left out
# Whose lesions, in which outline; the last two are those lesions of the second that were found.
KINDS = ("source_reference", "target_reference", "predicted", "found_reference", "found_predicted")
LOSSES: Mapping[str, tuple[str, str]] = {
    "loss_domain": ("source_reference", "target_reference"),
    "loss_outline": ("target_reference", "predicted"),
    "loss_outline_found": ("found_reference", "found_predicted"),
}
_SUMMARY = (*KINDS, *LOSSES)
COLUMNS = (
    *(*ENTRY, "types", "n_lesions", "n_patients", "n_seeds", "conditional", "undetected_percent", "failed_percent"),
    *(f"{name}{end}" for name in _SUMMARY for end in ("", "_low", "_high")),
    *("auroc_found_reference", "auroc_found_predicted"),
)
_LESION = [*ENTRY, "seed", "draw", "patient", "case", "structure", "number"]


def downstream(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target: balanced accuracy of the lesions' types by outline, and where it is lost.

    A logistic regression learns the type from features of the reference outlines in the source's test images. A patient
    is classified by the model that was trained without that patient, in the source as in every target.
    `source_reference` is its balanced accuracy (mean over types of the share that is right) there, `target_reference`
    on the reference outlines in the target's images, `predicted` on the outlines that the method drew in them, where a
    lesion that was not found is wrong. So `loss_domain` is due to the images (or the patients, or the protocol),
    `loss_outline` to the outlines; `loss_outline_found` is the part of those that were found. Intervals are
    percentile ones of a bootstrap over patients and seeds. The AUROC is one type against the rest, on the lesions that
    were found, mean over types and seeds; it has no interval.

    A scenario has rows where its source has two types of lesions with `FEWEST_LESIONS` each.

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: see `outlines`.
    """
    lesions = _lesions(rows)
    records = []
    for _, own in lesions.groupby(["scenario", "source"], sort=True):
        trained = _Classifier.of(_one_method(own[own["target"] == own["source"]]))
        if trained is None:
            continue
        known = own[own["type"].isin(trained.types)]
        home = trained.right(_one_method(known[known["target"] == known["source"]]), REFERENCE)
        for key, one in known.groupby(ENTRY, dropna=False, sort=True):
            identity = plain(key)
            records.append(dict(zip(ENTRY, identity, strict=True)) | _record(trained, home, one, str(identity)))
    return pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})


def _lesions(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per lesion and run, with its `type`, `status`, and each feature as `reference mean`, `predicted mean`."""
    table = outlines(rows, lesions=True)
    if table.empty:
        return pd.DataFrame(columns=[*_LESION, "type", "status"])
    table["lesion"] = table.groupby(_LESION, dropna=False, sort=True).ngroup()
    first = table.drop_duplicates("lesion").set_index("lesion")
    sides = [
        table.pivot(index="lesion", columns="feature", values=side).add_prefix(f"{side} ")
        for side in (REFERENCE, PREDICTED)
    ]
    kind = first["detail"].astype(str).str.extract(f"{TYPE}([^;]*)", expand=False)
    return first[[*_LESION, "status"]].assign(type=kind).join(sides).sort_index()


def _one_method(lesions: pd.DataFrame) -> pd.DataFrame:
    """The lesions once: their reference outlines are the same whoever predicted."""
    if lesions.empty:
        return lesions
    run = ["backbone", "budget", "track", "method", "k", "seed", "draw"]
    return lesions[lesions.groupby(run, dropna=False, sort=True).ngroup() == 0]


def _features(lesions: pd.DataFrame, side: str) -> np.ndarray:
    """Features (n, f) in the order of `LESION_FEATURES`, of those that the data have."""
    return lesions[[f"{side} {name}" for name in LESION_FEATURES if f"{side} {name}" in lesions]].to_numpy(float)


@dataclass
class _Classifier:
    """Leave-one-patient-out: for every patient of the training lesions, a model that never saw the patient."""

    lesions: pd.DataFrame
    types: tuple[str, ...]
    models: dict[str | None, Any] = field(default_factory=dict)

    @staticmethod
    def of(source: pd.DataFrame) -> _Classifier | None:
        """From the source's lesions; None where there are not two types to tell apart."""
        counts = source.groupby("type").agg(lesions=("patient", "size"), patients=("patient", "nunique"))
        enough = (counts["lesions"] >= FEWEST_LESIONS) & (counts["patients"] >= FEWEST_PATIENTS)
        types = tuple(sorted(counts[enough].index))
        return _Classifier(source[source["type"].isin(types)], types) if len(types) > 1 else None

    def without(self, patient: str) -> Any:
        """The model that was not trained on a patient."""
        inside = self.lesions["patient"] == patient
        key = patient if inside.any() else None
        if key not in self.models:
            kept = self.lesions[~inside]
            self.models[key] = fitted(_features(kept, REFERENCE), kept["type"].to_numpy(str))
        return self.models[key]

    def probabilities(self, lesions: pd.DataFrame, side: str) -> np.ndarray:
        """Of each type (n, types), by the model of each lesion's patient; NaN for a lesion without that outline."""
        values = _features(lesions, side)
        has = np.isfinite(values).any(axis=1)
        out = np.full((len(lesions), len(self.types)), np.nan)
        for patient, where in lesions.assign(place=np.arange(len(lesions))).groupby("patient")["place"]:
            places = where.to_numpy()[has[where.to_numpy()]]
            if places.size:
                out[places] = self.without(str(patient)).predict_proba(values[places])
        return out

    def right(self, lesions: pd.DataFrame, side: str) -> pd.DataFrame:
        """The lesions with `right`: whether the most probable type is the true one; without an outline it is not."""
        found = self.probabilities(lesions, side)
        guess = np.asarray(self.types)[np.nan_to_num(found).argmax(axis=1)]
        return lesions.assign(right=(guess == lesions["type"]) & np.isfinite(found).all(axis=1))


def fitted(features: np.ndarray, types: np.ndarray) -> Any:
    """A logistic regression of standardised features (n, f) with balanced classes; what is undefined is the median."""
    from sklearn.impute import SimpleImputer  # slow to import, and few runs have lesions of several types
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(class_weight="balanced", max_iter=5000)
    steps = (SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), model)
    return make_pipeline(*steps).fit(features, types)


def _record(trained: _Classifier, home: pd.DataFrame, lesions: pd.DataFrame, name: str) -> dict[str, Any]:
    """The columns of one method on one target beside its name."""
    reference, predicted = (trained.right(lesions, side) for side in (REFERENCE, PREDICTED))
    found = lesions["status"] == Status.OK
    lost = {
        "undetected_percent": lesions["status"] == Status.MISSED,
        "failed_percent": lesions["status"].isin(FAILURES),
    }
    seeds, everyone = sorted(lesions["seed"].unique()), sorted({*home["patient"], *lesions["patient"]})
    sets = (reference, predicted, reference[found], predicted[found])
    at_home = _counts(home.assign(seed=seeds[0]), trained.types, seeds[:1], everyone).repeat(len(seeds), axis=2)
    counts = np.stack([at_home, *(_counts(one, trained.types, seeds, everyone) for one in sets)])  # (kinds, t, 2, S, N)
    rng = generator(0, "downstream", name)
    result = crossed_bootstrap(counts, _balanced, resamples=2000, rng=rng)
    once = _one_method(lesions)
    record: dict[str, Any] = {"types": ", ".join(f"{t} {int((once['type'] == t).sum())}" for t in trained.types)}
    record |= {"n_lesions": len(once), "n_patients": once["patient"].nunique(), "n_seeds": len(seeds)}
    record |= {"conditional": len(seeds) == 1} | {column: 100 * float(who.mean()) for column, who in lost.items()}
    for place, column in enumerate(_SUMMARY):
        values = (result.estimate[place], result.low[place], result.high[place])
        record |= {f"{column}{end}": _known(v) for end, v in zip(("", "_low", "_high"), values, strict=True)}
    for side in (REFERENCE, PREDICTED):
        record[f"auroc_found_{side}"] = _auroc(trained, lesions[found], side)
    return record


def _counts(lesions: pd.DataFrame, types: Sequence[str], seeds: Sequence, patients: Sequence[str]) -> np.ndarray:
    """Lesions that are right, and all, per type, seed and patient: (types, 2, S, N); every few-shot draw counts."""
    out = np.zeros((len(types), 2, len(seeds), len(patients)))
    place = (
        pd.Index(types).get_indexer(lesions["type"]),
        pd.Index(seeds).get_indexer(lesions["seed"]),
        pd.Index(patients).get_indexer(lesions["patient"]),
    )
    np.add.at(out[:, 0], place, lesions["right"].to_numpy(float))
    np.add.at(out[:, 1], place, 1.0)
    return out


def _balanced(means: np.ndarray) -> np.ndarray:
    """Balanced accuracies and losses (b, kinds + losses) from mean counts (b, kinds, types, 2)."""
    right, all_of_them = means[..., 0], means[..., 1]
    there = all_of_them > 0
    shares = np.where(there, right / np.where(there, all_of_them, 1), 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        accuracy = shares / there.sum(axis=-1)  # NaN where no lesion of any type was drawn
    by_kind = dict(zip(KINDS, np.moveaxis(accuracy, -1, 0), strict=True))
    losses = [by_kind[a] - by_kind[b] for a, b in LOSSES.values()]
    return np.stack([*by_kind.values(), *losses], axis=-1)


def _auroc(trained: _Classifier, lesions: pd.DataFrame, side: str) -> float | None:
    """Area under the ROC curve of one type against the rest, mean over the types that there are, then over seeds."""
    values = []
    for _, own in lesions.groupby(["seed", "draw"]):
        found, truth = trained.probabilities(own, side), own["type"].to_numpy(str)
        has = np.isfinite(found).all(axis=1)
        areas = [_area(found[has, i], truth[has] == one) for i, one in enumerate(trained.types)]
        known = [area for area in areas if area is not None]
        values += [float(np.mean(known))] if known else []
    return float(np.mean(values)) if values else None


def _area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive scores higher than a negative; None without one of each."""
    n, other = int(positive.sum()), int((~positive).sum())
    if not n or not other:
        return None
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * other))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
