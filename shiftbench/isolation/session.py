"""A method at work in a guest, as its worker sees it: what it is granted goes in, checked tensors come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shiftbench.errors import MethodError
from shiftbench.guest.frames import Frame, FrameError
from shiftbench.isolation import admit
from shiftbench.isolation.talk import GuestError, Starter, Talk
from shiftbench.loading import HASHED, MethodSource
from shiftbench.rng import digest
from shiftbench.tasks import Task
from shiftbench.types import Episode, Prediction, Status

NETWORK_FACTS = ("backbone", "architecture", "dimension", "layout", "normalise", "window", "recipe", "seed")


class GivenCase(NamedTuple):
    """A case of a granted set as it is in the store; a guest is told the patient's number, and never the name."""

    image: Tensor
    reference: Tensor | None = None
    instances: Tensor | None = None
    patient: str = ""


@dataclass(frozen=True)
class Terms:
    """A task as its guest is told it.

    Attributes:
        source: the method's code; `path` is where it lies here, for errors, and is not told.
        network: of a training task, what the network depends on (`NETWORK_FACTS`).
        channels: of the raw images.
        recipe: of the task.
        identity: stem, version, track, episode and parameters that the plan knows the method by; None for a
            preparation, which draws by the stem alone.
    """

    source: MethodSource
    path: Path
    network: Mapping[str, Any]
    channels: int
    recipe: Mapping[str, Any]
    device: str
    threads: int
    seed: int
    draw: int = 0
    identity: Sequence[Any] | None = None

    @property
    def task(self) -> Task:
        """The layout of the network's outputs."""
        return Task.of(self.network["layout"])

    def message(self) -> dict[str, Any]:
        """The guest's first command; a network that is a file of the user's goes as text."""
        network = {name: self.network[name] for name in NETWORK_FACTS}
        place, _, name = network["architecture"]["network"].rpartition(":")
        file = None
        if place.endswith(".py"):
            file = Path(place).read_text(encoding="utf-8")
            network["architecture"] = {**network["architecture"], "network": f"{Path(place).name}:{name}"}
        told = {"recipe": self.recipe, "channels": self.channels, "network": network, "network_file": file}
        how = {"device": self.device, "threads": self.threads, "seed": self.seed, "draw": self.draw}
        return {"do": "hello", "method": self.source.message(), "identity": self.identity, **told, **how}


class Session:
    """One method in one guest.

    `predict` adapts as often as the method's episode asks for. What goes wrong with a case is raised and the next case
    may be tried; where an adaptation for all cases failed, or the guest is gone, every later call raises that again.

    Args:
        launcher: gives the guest.
        terms: of the task.
        seconds: limit of the whole session.
        report: is told how far the task is.

    Raises:
        GuestError: the method cannot be made, or the guest is gone.
    """

    def __init__(
        self, launcher: Starter, terms: Terms, *, seconds: float, report: Callable[[str], None] = lambda words: None
    ):
        self.terms, self.report = terms, report
        self.talk = Talk(launcher, seconds=seconds)
        self.level = self.talk.level
        self.prepares: list[str] = []  # of "prepare" and "summarise", what the method has
        self.adapted = False
        self.broken: Exception | None = None
        try:
            self._hello()
        except BaseException:
            self.close()
            raise

    @property
    def episodic(self) -> bool:
        """Whether the method adapts to every case anew."""
        return self.terms.identity is not None and self.terms.identity[3] == Episode.EPISODIC

    def send_weights(self, state: Mapping[str, Tensor]) -> None:
        """The model that the method starts from."""
        self._ask({"do": "weights"}, state)

    def grant(
        self, sets: Mapping[str, Iterable[GivenCase]], sidecar: Mapping[str, Tensor] | None = None, *, counted: bool
    ) -> None:
        """Exactly what the track entitles the method to, case by case.

        Args:
            sets: of "source", "source_val", "target" and "fewshot".
            sidecar: declared statistics.
            counted: whether labelled cases come with the ids of things.
        """
        self._ask({"do": "grant", "sets": list(sets), "counted": counted}, sidecar)
        # A patient is the number of its first appearance. It says who is who among these cases and nothing else, for
        # the order is seen anyway; a hash could be looked up by whoever guesses names, with any salt that a resumed
        # run or another machine can derive again.
        numbers: dict[str, str] = {}
        for name, cases in sets.items():
            for case in cases:
                tensors = {"image": case.image}
                header: dict[str, Any] = {"do": "case", "set": name}
                if case.reference is not None:
                    tensors["reference"] = case.reference
                    header["patient"] = numbers.setdefault(case.patient, f"{len(numbers):06d}")
                if case.instances is not None:
                    tensors["instances"] = case.instances
                self._ask(header, tensors)

    def predict(self, image: Tensor) -> tuple[Prediction, float]:
        """The prediction for one image (c, *s), as CPU tensors that are still to be decoded, and seconds of adapting.

        Raises:
            NotApplicable: the method has no meaning for this model.
            GuestError: as `Session`.
        """
        if self.broken is not None:
            raise self.broken
        seconds = 0.0
        if not self.adapted or self.episodic:
            started = time.perf_counter()
            try:
                self._ask({"do": "adapt", "name": _content(image) if self.episodic else "offline"})
            except Exception as error:
                if not self.episodic:
                    self.broken = error
                raise
            seconds, self.adapted = time.perf_counter() - started, True
        found = self._ask({"do": "predict"}, {"image": image}, admit.prediction(image, self.terms.task))
        return Prediction(**found.tensors), seconds

    def again(self) -> None:
        """The next prediction adapts anew."""
        self.adapted, self.broken = False, None

    def estimate(self, images: Sequence[Tensor], structures: int) -> Tensor:
        """An estimator's values (n, structures) for all images, each sent when it asks for it."""
        n = len(images)

        def give(index: Any) -> Mapping[str, Tensor]:
            if type(index) is not int or not 0 <= index < n:
                raise FrameError("a wish for an image that there is not")
            self.report(f"image {index + 1} of {n}")
            return {"image": images[index]}

        wanted = admit.estimates(n, structures)
        found = self._ask({"do": "estimate", "cases": n}, admitted=wanted, give=give).tensors
        return found.get("estimates", torch.empty(0))

    def prepare(self, untrained: nn.Module, seed: int) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
        """State of the model that a method trained itself, or None, and its sidecar.

        Args:
            untrained: a model like the one that it trains.
            seed: of the task.
        """
        wanted = admit.preparation(untrained.state_dict())
        found = self._ask({"do": "prepare", "seed": seed}, admitted=wanted).tensors
        for name, tensor in found.items():
            if not bool(tensor.isfinite().all()):
                raise self._breach(MethodError(f"{name} holds NaN or infinity", remedy="return finite values"))
        model = {n.removeprefix(admit.MODEL): t for n, t in found.items() if n.startswith(admit.MODEL)}
        sidecar = {n.removeprefix(admit.SIDECAR): t for n, t in found.items() if n.startswith(admit.SIDECAR)}
        return model or None, sidecar

    def close(self) -> None:
        """Ends the guest."""
        self.talk.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hello(self) -> None:
        """The method is made, and is the one that was planned."""
        said = self._ask(self.terms.message()).header
        self.prepares = list(said.get("prepares") or [])
        if self.terms.identity is None:
            return
        _, version, track, episode, parameters = self.terms.identity
        declared = version if version.startswith(HASHED) else str(said.get("declared"))
        now = [declared, said.get("track"), said.get("episode"), said.get("parameters")]
        if not _equal(now, [version, track, episode, parameters]):
            problem = "the method says something else of itself than when the run was planned"
            raise self._breach(MethodError(problem, remedy="start the run again"))

    def _ask(
        self,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        admitted: admit.Admit | None = None,
        give: Callable[[Any], Mapping[str, Tensor]] | None = None,
    ) -> Frame:
        return self.talk.ask(header, tensors, path=self.terms.path, admit=admitted, give=give)

    def _breach(self, error: MethodError) -> GuestError:
        """What the host found wrong, under the method's file."""
        named = MethodError(error.problem, where=self.terms.path, remedy=error.remedy)
        return GuestError(str(named), Status.INVALID_OUTPUT, error=named, record={"isolation": self.level})


def _content(image: Tensor) -> str:
    return digest(image.cpu().numpy().tobytes().hex())


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, lists and tuples alike."""
    try:
        return digest(one) == digest(other)
    except (TypeError, ValueError):  # no JSON value at all
        return False
