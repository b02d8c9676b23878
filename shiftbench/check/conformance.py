"""The contract of a method, tried on a tiny synthetic problem: what the tests and `shiftbench check FILE` run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256

from torch import Tensor, nn

from shiftbench import questions
from shiftbench.blocks import untrained
from shiftbench.check.estimators import check_estimator
from shiftbench.check.findings import Finding, clause_by_clause, fingerprint, refuse_changes, refuses_lacking
from shiftbench.check.problem import CLASSES, Problem
from shiftbench.contract import SIDECAR_BYTES, decode_prediction, grant
from shiftbench.methods import LoadedMethod
from shiftbench.networks import Normalised
from shiftbench.questions import Broken
from shiftbench.rng import generator
from shiftbench.types import Episode, LabelledSet, Prediction, Prepared, Track, UnlabelledSet


def check_method(loaded: LoadedMethod) -> list[Finding]:
    """What the contract asks of a method, clause by clause, in a few seconds on one core.

    A clause that does not concern the method, or cannot be tried because an earlier one broke, is `skipped`. The method
    conforms when no finding is `failed`.
    """
    if loaded.method.track is Track.ESTIMATE:
        return check_estimator(loaded)
    return clause_by_clause(loaded, lambda of: Trial(loaded, of), lambda: _requires(loaded), CLAUSES)


class Trial:
    """A method on one problem, a `questions.Runnable`; `first` holds what the first run over the test cases predicted.

    The references that are hidden from a method are those of `adapt` which its track does not show it.
    """

    def __init__(self, loaded: LoadedMethod, problem: Problem):
        self.loaded, self.problem = loaded, copy.deepcopy(problem)  # a faulty method spoils its own copy alone
        self.pristine = fingerprint(problem)
        self.episode = loaded.method.episode
        self.first: list[bytes] = []
        self.names = [str(i + 1) for i in range(len(problem.test))]
        self.own: nn.Module | None = None  # the model of a method with a source training of its own

    @property
    def ways(self) -> tuple[str, ...]:
        """How hidden references are changed, where there are any."""
        return ("with other labels",) if self.shown() < len(self.problem.adapt) else ()

    def shown(self) -> int:
        """How many of the `adapt` cases the track shows the method with references."""
        if self.loaded.method.track is Track.FEWSHOT:
            k = getattr(self.loaded.method, "k", None)
            return len(self.problem.adapt) if k is None else k
        return len(self.problem.adapt) if self.loaded.method.track is Track.REFERENCE else 0

    def run(self, order: Sequence[int], *, replaced: Collection[int] = (), hidden: str = "") -> list[bytes]:
        """The predictions' bytes in the order of the cases, each prediction validated."""
        problem, method = self.problem, self.loaded.method
        adapt = self._relabelled() if hidden else problem.adapt
        images = [problem.test[i] * 0.5 + 1.0 if i in replaced else problem.test[i] for i in order]
        access = grant(
            method,
            recipe=problem.recipe,
            source=problem.source,
            source_val=problem.source_val,
            target=UnlabelledSet(adapt.images),
            labelled_target=adapt,
            sidecar=self.sidecar(),
        )

        def adapted(*names: object) -> Callable[[Tensor], Prediction]:
            rng = generator(0, self.loaded.name, *names)
            predict = method.adapt(copy.deepcopy(self.model()), access, rng=rng)
            if not callable(predict):
                raise Broken(f"adapt returned a {type(predict).__name__}; return a function of one image")
            return predict

        predict = None if method.episode is Episode.EPISODIC else adapted()
        found = []
        for image in images:
            prediction = (predict or adapted(_hash(image)))(image)
            decode_prediction(prediction, image, problem.model.task)
            found.append(_bytes(prediction))
        return found

    def model(self) -> nn.Module:
        """What the method starts from: the source model, or that of its own training, which is run once."""
        prepare = getattr(self.loaded.method, "prepare", None)
        if prepare is None:
            return self.problem.model
        if self.own is None:
            self.own = self._prepared(prepare).model
        return self.own

    def _prepared(self, prepare: Callable[..., Prepared]) -> Prepared:
        problem, rng = self.problem, generator(0, self.loaded.name, "prepare")

        def build() -> Normalised:
            return untrained(problem.model, generator(0, "untrained"))

        prepared = prepare(problem.source, problem.source_val, build, recipe=problem.recipe, rng=rng)
        if not isinstance(prepared, Prepared):
            raise Broken(f"prepare returned a {type(prepared).__name__}; return a shiftbench.api.Prepared")
        return prepared

    def sidecar(self) -> dict[str, Tensor]:
        """What the method stores beside the source model."""
        summarise = getattr(self.loaded.method, "summarise", None)
        if summarise is None:
            return {}
        return dict(summarise(copy.deepcopy(self.problem.model), self.problem.source, self.problem.source_val))

    def predicts_every_case(self) -> str:
        """Every test case gets one valid prediction."""
        self.first = self.run(range(len(self.problem.test)))
        return f"{len(self.first)} cases"

    def leaves_its_inputs(self) -> None:
        """Nothing the method was handed, or could reach, was changed in place by the first run."""
        refuse_changes(self.pristine, self.problem)

    def _relabelled(self) -> LabelledSet:
        """The `adapt` cases, those that are not shown with other labels."""
        adapt, shown = self.problem.adapt, self.shown()
        other = [r if i < shown else (r + 1) % CLASSES for i, r in enumerate(adapt.references)]
        return LabelledSet(adapt.images, other, adapt.patients, adapt.instances)

    def sidecar_is_small(self) -> str:
        """`summarise` returns tensors of at most 1 MB together."""
        sidecar = self.sidecar()
        odd = [name for name, value in sidecar.items() if not isinstance(value, Tensor)]
        if odd:
            raise Broken(f"not tensors: {', '.join(odd)}")
        size = sum(value.numel() * value.element_size() for value in sidecar.values())
        if size > SIDECAR_BYTES:
            raise Broken(f"{size} bytes; at most {SIDECAR_BYTES}")
        return f"{size} bytes"


CLAUSES: dict[str, Callable[[Trial], str | None]] = {
    "predicts every case, validly": Trial.predicts_every_case,
    "the sidecar is at most 1 MB of tensors": Trial.sidecar_is_small,
    "leaves the source model, the images and the references as they are": Trial.leaves_its_inputs,
    "the same seed gives the same bits": questions.same_bits,
    "adapting again forgets the earlier stream": questions.forgets,
    "the order of the cases does not matter": questions.order_invariance,
    "later cases do not matter": questions.causality,
    "hidden references do not matter": questions.hidden_references,
}


def _requires(loaded: LoadedMethod) -> str:
    """Every backbone of the check that lacks something makes the method raise NotApplicable."""
    return refuses_lacking(loaded, lambda problem: Trial(loaded, problem).run([0]))


def _hash(image: Tensor) -> str:
    return sha256(image.numpy().tobytes()).hexdigest()


def _bytes(prediction: Prediction) -> bytes:
    arrays = (prediction.log_probabilities, prediction.labels, prediction.uncertainty)
    return b"|".join(b"" if a is None else a.detach().cpu().contiguous().numpy().tobytes() for a in arrays)
