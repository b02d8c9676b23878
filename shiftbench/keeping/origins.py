"""Where each named part of a key comes from: what somebody would change, and get another key."""

from __future__ import annotations

from collections.abc import Mapping

_VERSION = "the constant {} of {}: raised when the same input gives other results"
_IMAGES = "the tasks that make these images: another population, acquisition, operator version or split"
_REFERENCES = "the tasks that draw these references: another protocol or version of its rules"
_LABELLED = "the tasks that make these images and references"
_STRUCTURES = "the scenario's tables [structures.NAME], in their order"

ORIGINS: Mapping[str, Mapping[str, str]] = {
    "anatomy": {
        "version": _VERSION.format("ANATOMY_VERSION", "shiftbench/domains.py"),
        "dataset": "the content of the data set: the phantom's version and [phantom], or the files of --data",
        "population": "the `population` of the scenario's [[source]] and [[target]]",
        "population_versions": "the versions of the rows of shiftbench/shifts/population.py that these keys belong to",
        "cases": "the split of the patients: the scenario's domain_seed and the data set, or a step `reselect`",
    },
    "images": {
        "version": _VERSION.format("IMAGES_VERSION", "shiftbench/domains.py"),
        "anatomy": "the task that makes these anatomies",
        "acquisition": "the `acquisition` of the scenario's [[source]], completed by the defaults of its modality",
        "steps": "the `acquisition` of the scenario's [[target]]: operators, levels, and the operators' versions",
        "domain_seed": "the scenario's key domain_seed",
    },
    "references": {
        "version": _VERSION.format("REFERENCES_VERSION", "shiftbench/domains.py"),
        "anatomy": "the task that makes these anatomies",
        "structures": _STRUCTURES,
        "protocol": "the `protocol` of the scenario's [[source]] and [[target]]",
        "rules": "the versions of the protocol's rules in shiftbench/shifts/rules.py",
        "steps": "those steps of the target's `acquisition` that move the anatomy, and their operators' versions",
        "annotator_noise_mm": "the target's key annotator_noise_mm",
        "domain_seed": "the scenario's key domain_seed",
        "instances": "the scenario's key task",
    },
    "card": {
        "version": _VERSION.format("VERSION", "shiftbench/cards.py"),
        "structures": _STRUCTURES,
        "source": _LABELLED,
        "target": _LABELLED,
        "redrawn": _LABELLED,
    },
    "train": {
        "version": _VERSION.format("TRAIN_VERSION", "shiftbench/plan/versions.py"),
        "backbone": "the scenario's key backbones, or --backbone",
        "architecture": "the entry of shiftbench/backbones.py with its version, or the scenario's [backbone.NAME]",
        "code": "the content of the file of a network that is not ours",
        "dimension": "the scenario's key dimension",
        "layout": "the scenario's key task, its [instances] and its structures",
        "normalise": "the scenario's key normalise",
        "window": "the scenario's key window",
        "recipe": "the scenario's key budget and its [training]",
        "seed": "the scenario's key seeds, or --seeds",
        "device": "--device",
        "threads": "--threads",
        "images": _IMAGES,
        "references": _REFERENCES,
    },
    "prepare": {
        "version": _VERSION.format("PREDICT_VERSION", "shiftbench/plan/versions.py"),
        "method": "the method: its VERSION, or the content of a file that is not ours, and the fields of --method",
        "train": "the source training",
        "images": _IMAGES,
        "references": _REFERENCES,
        "seed": "the scenario's key seeds, or --seeds",
    },
    "predict": {
        "version": _VERSION.format("PREDICT_VERSION", "shiftbench/plan/versions.py"),
        "method": "the method: its VERSION, or the content of a file that is not ours, and the fields of --method",
        "state": "the training, or the method's own preparation, that it starts from",
        "recipe": "the scenario's key budget and its [training]",
        "seed": "the scenario's key seeds, or --seeds",
        "draw": "which draw of the labelled cases: the scenario's key budget says how many there are",
        "order": "the scenario's key domain_seed, which the order of the cases is drawn from",
        "stream": "the scenario's [[stream]], its order seeds and its domain_seed",
        "test": _IMAGES,
        "adapt": _IMAGES,
        "source_train": _LABELLED,
        "source_val": _LABELLED,
        "fewshot": _LABELLED,
        "fewshot_order": "the method's k, and the scenario's domain_seed, which the labelled cases are drawn from",
        "not_applicable": "the method's k, and how many cases the target has to adapt on",
        "keep": "the scenario's [calibration]",
        "select": "whether the run has several configurations of the method; then: " + _IMAGES,
        "select_version": _VERSION.format("SELECT_VERSION", "shiftbench/plan/versions.py"),
        "device": "--device",
        "threads": "--threads",
    },
    "score": {
        "prediction": "the task that predicts",
        "references": _REFERENCES,
        "structures": _STRUCTURES + ": names, tolerances and forms",
        "metrics": "the versions of the metrics in shiftbench/metrics: after a fix, `shiftbench rescore` scores again",
        "options": "the scenario's [calibration] and [radiomics], and whether configurations are chosen between",
        "layout": "the scenario's key task and its [instances]",
        "names": "the order of the stream",
        "donors": "the control permuted_references, and the scenario's domain_seed",
    },
}


def origin(kind: str, name: str) -> str:
    """Where a part of the key of a task of this kind comes from."""
    return ORIGINS.get(kind, {}).get(name, "the plan")
