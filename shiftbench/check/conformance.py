"""The contract of a method, tried on a tiny synthetic problem: what the tests and `shiftbench check FILE` run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from hashlib import sha256

from torch import Tensor, nn

from shiftbench.blocks import untrained
from shiftbench.check.estimators import check_estimator
from shiftbench.check.findings import (
    Broken,
    Finding,
    Skipped,
    clause_by_clause,
    fingerprint,
    refuse_changes,
    refuses_lacking,
)
from shiftbench.check.problem import CLASSES, Problem
from shiftbench.contract import SIDECAR_BYTES, decode_prediction, grant
from shiftbench.methods import LoadedMethod
from shiftbench.networks import Normalised
from shiftbench.rng import generator
from shiftbench.types import Episode, LabelledSet, Prediction, Prepared, Track, UnlabelledSet

LABELLED_TRACKS = (Track.FEWSHOT, Track.REFERENCE)
CARRIES_STATE = (Episode.ONLINE, Episode.CONTINUAL)


def check_method(loaded: LoadedMethod) -> list[Finding]:
    """What the contract asks of a method, clause by clause, in a few seconds on one core.

    A clause that does not concern the method, or cannot be tried because an earlier one broke, is `skipped`. The method
    conforms when no finding is `failed`.
    """
    if loaded.method.track is Track.ESTIMATE:
        return check_estimator(loaded)
    return clause_by_clause(loaded, lambda of: Trial(loaded, of), lambda: _requires(loaded), CLAUSES)


class Trial:
    """A method on one problem; `first` holds the predictions of the first run over the test cases."""

    def __init__(self, loaded: LoadedMethod, problem: Problem):
        self.loaded, self.problem = loaded, copy.deepcopy(problem)  # a faulty method spoils its own copy alone
        self.pristine = fingerprint(problem)
        self.first: list[bytes] = []
        self.own: nn.Module | None = None  # the model of a method with a source training of its own

    def run(self, images: Sequence[Tensor], *, adapt: LabelledSet | None = None) -> list[bytes]:
        """The predictions' bytes in the order of `images`, each prediction validated."""
        problem, method = self.problem, self.loaded.method
        adapt = problem.adapt if adapt is None else adapt
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
        self.first = self.run(self.problem.test)
        return f"{len(self.first)} cases"

    def leaves_its_inputs(self) -> None:
        """Nothing the method was handed, or could reach, was changed in place by the first run."""
        refuse_changes(self.pristine, self.problem)

    def same_seed_same_bits(self) -> None:
        """METHODS.md 10.7: the predictions depend on the inputs and on `rng` alone."""
        if self.run(self.problem.test) != self.first:
            raise Broken("a second run with the same rng differs; draw from rng alone and keep no state in the method")

    def forgets(self) -> None:
        """METHODS.md E-T3: nothing of an earlier stream is left once `adapt` is called again."""
        self.run(self.problem.test[::-1])
        if self.run(self.problem.test[:1]) != self.first[:1]:
            raise Broken("adapting again remembers an earlier stream")

    def order(self) -> None:
        """METHODS.md E-T1: where no state is carried, the order of the cases does not matter."""
        if self.loaded.method.episode in CARRIES_STATE:
            raise Skipped("online: the order may matter")
        if self.run(self.problem.test[::-1])[::-1] != self.first:
            raise Broken("a case's prediction depends on the cases before it")

    def causality(self) -> None:
        """METHODS.md E-T2: a stream cut short, or continued with another case, predicts its earlier cases alike."""
        if self.loaded.method.episode not in CARRIES_STATE:
            raise Skipped("not online")
        *earlier, last = self.problem.test
        replaced, cut = self.run([*earlier, last * 0.5 + 1.0])[:-1], self.run(earlier[:1])
        if replaced != self.first[:-1] or cut != self.first[:1]:
            raise Broken("a prediction depends on later cases")

    def hidden_references(self) -> None:
        """METHODS.md E-T4: a method without target labels predicts the same when they are permuted."""
        if self.loaded.method.track in LABELLED_TRACKS:
            raise Skipped("this track is given target labels")
        adapt = self.problem.adapt
        permuted = [(reference + 1) % CLASSES for reference in adapt.references]
        relabelled = LabelledSet(adapt.images, permuted, adapt.patients, adapt.instances)
        if self.run(self.problem.test, adapt=relabelled) != self.first:
            raise Broken("the predictions depend on the target's references")

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
    "the same seed gives the same bits": Trial.same_seed_same_bits,
    "adapting again forgets the earlier stream": Trial.forgets,
    "the order of the cases does not matter": Trial.order,
    "later cases do not matter": Trial.causality,
    "hidden references do not matter": Trial.hidden_references,
}


def _requires(loaded: LoadedMethod) -> str:
    """Every backbone of the check that lacks something makes the method raise NotApplicable."""
    return refuses_lacking(loaded, lambda problem: Trial(loaded, problem).run(problem.test[:1]))


def _hash(image: Tensor) -> str:
    return sha256(image.numpy().tobytes()).hexdigest()


def _bytes(prediction: Prediction) -> bytes:
    arrays = (prediction.log_probabilities, prediction.labels, prediction.uncertainty)
    return b"|".join(b"" if a is None else a.detach().cpu().contiguous().numpy().tobytes() for a in arrays)
