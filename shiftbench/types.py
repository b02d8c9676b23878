"""The nouns of ShiftBench: tracks, statuses, geometry, anatomies, cases, predictions and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:  # torch is imported by whoever computes, not by whoever names things
    from torch import Tensor, nn


class Track(StrEnum):
    """What a method may touch, and when; leaderboards are per track."""

    DG = "dg"  # domain generalisation and source-only
    HARMONISE = "harmonise"
    UDA = "uda"
    SFDA = "sfda"
    TTA = "tta"
    FEWSHOT = "fewshot"
    REFERENCE = "reference"
    POSTHOC = "posthoc"
    ESTIMATE = "estimate"


class Episode(StrEnum):
    """When `adapt` is called: once per target, for every case, or once per target or stream with state in its order.

    An online method and a continual one are called alike. A continual one is made for streams whose targets change.
    """

    OFFLINE = "offline"
    EPISODIC = "episodic"
    ONLINE = "online"
    CONTINUAL = "continual"


class Family(StrEnum):
    """The cause of a shift; headlines are per family, controls and faults never enter them."""

    CONTROL = "control"
    ACQUISITION = "acquisition"
    ANNOTATION = "annotation"
    POPULATION = "population"
    COMBINED = "combined"
    REAL = "real"
    FAULT = "fault"


class Status(StrEnum):
    """What a value, or its absence, means (METRICS.md 5.2)."""

    OK = "ok"
    MISSED = "missed"  # prediction empty, reference not
    FP_ON_NEGATIVE = "fp_on_negative"  # reference empty, prediction not
    BOTH_EMPTY = "both_empty"
    CLASS_NOT_ANNOTATED = "class_not_annotated"
    NOT_APPLICABLE = "not_applicable"
    PREDICTION_MISSING = "prediction_missing"
    INVALID_GEOMETRY = "invalid_geometry"
    INVALID_OUTPUT = "invalid_output"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"


BETWEEN_PATIENTS = "dsc_between_patients"  # metric of rows that the impossible control is compared with

FAILURES = frozenset(
    {
        Status.PREDICTION_MISSING,
        Status.INVALID_GEOMETRY,
        Status.INVALID_OUTPUT,
        Status.FAILED,
        Status.TIMEOUT,
        Status.OUT_OF_MEMORY,
    }
)


@dataclass(frozen=True)
class Geometry:
    """Voxel spacing per spatial axis in axis order, or None where an image has none (then distances are in pixels)."""

    spacing: tuple[float, ...] | None
    affine: np.ndarray | None = None  # (4, 4), voxel index to RAS mm

    @property
    def unit(self) -> Literal["mm", "px"]:
        """Unit of every distance measured on this grid."""
        return "mm" if self.spacing is not None else "px"

    def spacing_or_pixels(self, ndim: int) -> tuple[float, ...]:
        """Spacing in mm, or ones where distances are in pixels."""
        return self.spacing if self.spacing is not None else (1.0,) * ndim


@dataclass(frozen=True)
class Anatomy:
    """One patient before acquisition and annotation: a phantom (`tissue`, `values`, `texture`) or a scan (`image`).

    Attributes:
        fine: int16 (*s), fine labels on the reference grid; their names are the dataset's `fine_labels`.
        instances: int16 (*s), instance ids of things (0 elsewhere), or None.
        tissue: uint8 (*f), tissue index on the supersampled grid f = s * supersampling (phantoms).
        values: property name (T1_ms, T2_ms, T2star_ms, PD, HU, ...) -> float32 (n_tissues,), looked up by `tissue`.
        texture: float32 (t, *s), zero-mean relative variation inside tissues (phantoms).
        image: float32 (c, *s), raw units (real scans).
        reference_label: fine label of the tissue in which SNR is stated (phantoms); None for the whole body.
        attributes: age, sex, site, ... as far as known.
    """

    case_id: str
    patient_id: str
    geometry: Geometry
    fine: np.ndarray
    instances: np.ndarray | None = None
    tissue: np.ndarray | None = None
    values: Mapping[str, np.ndarray] | None = None
    texture: np.ndarray | None = None
    supersampling: tuple[int, ...] = (1, 1, 1)
    image: np.ndarray | None = None
    modality: str = "mr"  # mr, ct, rgb, grey
    reference_label: int | None = None
    attributes: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseInfo:
    """Who is in a dataset, known before any pixel is read; `split` is the publisher's, where there is one."""

    case_id: str
    patient_id: str
    site: str = ""
    split: str = ""
    attributes: Mapping[str, str | float] = field(default_factory=dict)


class Dataset(Protocol):
    """A collection of patients: a phantom or a folder of scans.

    Attributes:
        name: as scenarios name it; `digest` changes whenever any case would.
        fine_labels: names of the fine labels, index = value in `Anatomy.fine`; [0] is the outside.
        members: structure -> fine labels that always belong to it.
        optional_members: fine label -> (structure, protocol key): a sub-structure that a protocol includes or excludes.
        alternative_members: fine label -> (protocol key, {choice: structure}): it belongs to one structure or another.
        things: structures that are counted as instances.
        stuff: structures that others may grow into, as fat and muscle between organs.
        barriers: fine labels that no margin crosses.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def fine_labels(self) -> tuple[str, ...]: ...
    @property
    def members(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def optional_members(self) -> Mapping[str, tuple[str, str]]: ...
    @property
    def alternative_members(self) -> Mapping[str, tuple[str, Mapping[str, str]]]: ...
    @property
    def things(self) -> tuple[str, ...]: ...
    @property
    def stuff(self) -> tuple[str, ...]: ...
    @property
    def barriers(self) -> tuple[str, ...]: ...

    def cases(self) -> Sequence[CaseInfo]: ...

    def anatomy(self, case_id: str, population: Mapping[str, float]) -> Anatomy: ...


@dataclass(frozen=True)
class Case:
    """One scan of a domain, with what the annotators drew.

    Attributes:
        image: float32 (c, *s), raw units after the shift.
        reference: uint8 (*s), 0 background, then one label per structure in the scenario's order.
        annotated: structures that were annotated (others are `class_not_annotated`).
        measured: what the shift achieved (SNR, INU_percent, ...).
    """

    case_id: str
    patient_id: str
    image: np.ndarray
    reference: np.ndarray | None
    geometry: Geometry
    modality: str = "mr"
    annotated: tuple[str, ...] = ()
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledSet:
    """Raw images (c, *s) with references (*s), as tensors; `patients[i]` is an opaque id.

    `instances` holds instance ids (*s), 0 where there is no thing, in tasks that count instances; else None.
    """

    images: Sequence[Tensor]
    references: Sequence[Tensor]
    patients: Sequence[str]
    instances: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class UnlabelledSet:
    """Raw images (c, *s) of the target's `adapt` part; there is no field for references."""

    images: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class LossTerm:
    """One term of a training loss: a name of `shiftbench.losses.LOSSES`, with its weight and options.

    Attributes:
        weight: at the first step.
        final_weight: at the last step, linear between; None keeps `weight`.
        options: (name, value) of the loss function's own keywords.
    """

    name: str
    weight: float = 1.0
    final_weight: float | None = None
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a budget trains: the same number of gradient steps for every method of that budget.

    Attributes:
        steps: gradient steps of a training from scratch.
        fewshot_steps: gradient steps of a fine-tuning on K labelled cases.
        patch: spatial size of a training patch, one entry per axis of the network.
        class_weights: weights of the cross-entropy, background first; None for ones.
        augmentation: a name of `shiftbench.train.AUGMENTATIONS`.
        stack: neighbouring slices that a 2.5-D network is given as channels (odd; 1 for 2-D and 3-D).
        loss: terms that are added up.
        average: weights of the result: those of the last step, or a running ("ema") or stochastic ("swa") average.
    """

    name: str
    steps: int
    fewshot_steps: int
    batch: int
    patch: tuple[int, ...]
    learning_rate: float
    class_weights: tuple[float, ...] | None = None
    foreground_share: float = 0.5
    augmentation: str = "light"
    stack: int = 1
    loss: tuple[LossTerm, ...] = (LossTerm("dice_ce"),)
    average: Literal["none", "ema", "swa"] = "none"


@dataclass(frozen=True)
class Access:
    """Exactly what a track entitles a method to; what it may not see has no field or is None."""

    recipe: Recipe
    source: LabelledSet | None = None
    source_val: LabelledSet | None = None
    target: UnlabelledSet | None = None
    fewshot: LabelledSet | None = None
    sidecar: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """Log-probabilities (k, *s), or labels (*s) alone, on the grid of the image that was given.

    Where instances are asked for, `heads` (h, *s) holds the raw outputs of the task's heads, from which they are
    decoded, or `instances` (*s) holds ids (0: none) that the method found itself.
    """

    log_probabilities: Tensor | None = None
    labels: Tensor | None = None
    uncertainty: Tensor | None = None
    heads: Tensor | None = None
    instances: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """What a method's own source training left: a model, and a sidecar of at most 1 MB."""

    model: nn.Module
    sidecar: Mapping[str, Tensor] = field(default_factory=dict)


Predictor = Callable[["Tensor"], Prediction]  # one whole raw case (c, *s)


class Method(Protocol):
    """A frozen dataclass of hyper-parameters and one verb.

    `track` and `episode` say what it may see and when `adapt` is called; `requires` names what the backbone must have
    ("batch_norm", "norm_affine"); `k` (few-shot methods) is the number of labelled target cases.
    Optional: `summarise(model, source, source_val) -> Mapping[str, Tensor]`, a sidecar of at most 1 MB computed once
    beside the shared source model; `prepare(source, source_val, build, *, recipe, rng)`, a source training of its own.
    """

    track: Track
    episode: Episode
    requires: tuple[str, ...]

    def adapt(self, model: nn.Module, access: Access, *, rng: np.random.Generator) -> Predictor: ...


class Estimator(Protocol):
    """A frozen dataclass of hyper-parameters that says, without labels of the target, how well a model does there.

    `track` is ESTIMATE, `episode` is OFFLINE; `requires` is that of a method. What is judged is the frozen source-only
    model ("erm"). The estimator is handed `access.source_val`, labelled as the source draws, and all images of the
    target at once, as somebody has them who audits a model at a new site; a case's estimate may depend on all of them,
    but not on their order.
    """

    track: Track
    episode: Episode
    requires: tuple[str, ...]

    def estimate(self, model: nn.Module, access: Access, images: Sequence[Tensor]) -> Tensor:
        """Expected DSC in [0, 1], shape (n, k - 1): per image (c, *s) and structure, in label order."""
        ...


@dataclass(frozen=True)
class Row:
    """One tidy record: a value of one metric on one structure of one case, or the reason why there is none.

    Attributes:
        stream: the stream that the case was met in; None outside streams, as are the next three.
        stream_order: "continual", "gradual", "mixed" or "correlated".
        order_seed: which pass over the stream.
        position: of the case in that pass, from 0.
    """

    suite: str
    scenario: str
    scenario_version: int
    source: str
    target: str
    family: str
    operator: str | None
    level: float | None
    level_value: float | None
    level_unit: str | None
    method: str
    method_version: str
    track: str
    backbone: str
    budget: str
    k: int | None
    draw: int
    episode: str
    seed: int
    case: str
    patient: str
    structure: str
    metric: str
    definition: str
    tolerance: float | None
    unit: str
    value: float | None
    bound: str | None  # "inf" where the value is an infinite distance
    status: str
    detail: str
    seconds: float
    peak_mb: float | None
    isolation: str
    checkpoint: str
    prediction: str
    versions: str
    stream: str | None = None
    stream_order: str | None = None
    order_seed: int | None = None
    position: int | None = None
