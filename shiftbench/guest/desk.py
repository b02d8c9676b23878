"""The guest's desk: one command in, one answer out, and between them nothing but what the track grants."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, overload

import torch
from torch import Tensor

import shiftbench.api  # noqa: F401  what every method's file imports is there before the file comes
from shiftbench.contract import check_estimates, check_form
from shiftbench.errors import MethodError
from shiftbench.guest import frames
from shiftbench.guest.code import Code
from shiftbench.guest.model import recipe_of, untrained
from shiftbench.loading import MethodSource
from shiftbench.networks import Normalised
from shiftbench.rng import generator
from shiftbench.types import Access, LabelledSet, Prediction, Predictor, UnlabelledSet

HOST_HEADER_BYTES = 2**27  # what a host says: a method's file, at most
OUTPUTS = ("log_probabilities", "labels", "uncertainty", "heads", "instances")  # of a Prediction
Answer = tuple[Mapping[str, Any], Mapping[str, Tensor]]
OK: Answer = ({"say": "ok"}, {})


@dataclass
class GivenSet:
    """Cases of one granted set, as they came."""

    images: list[Tensor] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    instances: list[Tensor] = field(default_factory=list)


class Desk:
    """Answers a host until it hangs up.

    Args:
        inlet, outlet: where commands come from and answers go.
        folder: of this guest alone; the method's file is written there.
    """

    def __init__(self, inlet: BinaryIO, outlet: BinaryIO, folder: Path):
        self.inlet, self.outlet, self.folder = inlet, outlet, folder
        self.code = Code(MethodSource("method", ""), folder)
        self.method: Any = None
        self.terms: Mapping[str, Any] = {}
        self.device = "cpu"
        self.model: Normalised | None = None
        self.sets: dict[str, GivenSet] = {}
        self.counted = False
        self.sidecar: dict[str, Tensor] = {}
        self.access: Access | None = None
        self.predictor: Predictor | None = None
        self.pipe = threading.Lock()  # an estimator may read images in threads of its own

    def serve(self) -> None:
        """Says that it is ready, and answers commands until there are no more."""
        frames.write(self.outlet, {"say": "ready"})
        while (frame := self._next()) is not None:
            header, tensors = self._answered(frame)
            with self.pipe:
                frames.write(self.outlet, header, tensors)

    def _next(self) -> frames.Frame | None:
        return frames.read(self.inlet, header_bytes=HOST_HEADER_BYTES, admit=lambda header, shaped: None)

    def _answered(self, frame: frames.Frame) -> Answer:
        """The answer to one command; whatever a method's code raises is one."""
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        try:
            header, tensors = COMMANDS[frame.header["do"]](self, frame.header, frame.tensors)
        except Exception as error:
            header, tensors = self.code.answer(error), {}
        if self.device.startswith("cuda"):
            header = {**header, "peak_mb": torch.cuda.max_memory_allocated() / 2**20}
        return header, tensors

    def card(self, header: Mapping[str, Any], _: Mapping[str, Tensor]) -> Answer:
        """What the methods of a file say of themselves."""
        self.code = Code(MethodSource(**header["method"]), self.folder)
        found = [self.code.facts(name, *made) for name, made in self.code.methods().items()]
        return {"say": "ok", "cards": found}, {}

    def hello(self, header: Mapping[str, Any], _: Mapping[str, Tensor]) -> Answer:
        """The method is made, and says what it is."""
        self.terms, self.device = header, header["device"]
        torch.set_num_threads(header["threads"])
        self.code = Code(MethodSource(**header["method"]), self.folder)
        ((variant, (self.method, suffix)),) = self.code.methods().items()
        return {"say": "ok", **self.code.facts(variant, self.method, suffix)}, {}

    def weights(self, _: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
        """The model that the method starts from."""
        model = self._built()
        model.load_state_dict(dict(tensors))
        self.model = model.to(self.device).eval()
        return OK

    def grant(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
        """Which sets of cases the method gets, and its sidecar."""
        self.sets = {name: GivenSet() for name in header["sets"]}
        self.counted = header["counted"]
        self.sidecar = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        return OK

    def case(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
        """One case of a granted set."""
        cases = self.sets[header["set"]]
        cases.images.append(tensors["image"].to(self.device))
        if "reference" in tensors:
            cases.references.append(tensors["reference"].to(self.device))
            cases.patients.append(header["patient"])
        if "instances" in tensors:
            cases.instances.append(tensors["instances"].to(self.device))
        return OK

    def adapt(self, header: Mapping[str, Any], _: Mapping[str, Tensor]) -> Answer:
        """A new predictor from a new copy of the model."""
        self.predictor = None
        rng = generator(self.terms["seed"], *self.terms["identity"], self.terms["draw"], header["name"])
        self.predictor = self.method.adapt(copy.deepcopy(self.model), self._access(), rng=rng)
        return OK

    def predict(self, _: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Answer:
        """The prediction for one image."""
        assert self.predictor is not None and self.model is not None  # a host adapts first
        image = tensors["image"]
        prediction = self.predictor(image.to(self.device))
        task = self.model.task
        check_form(prediction, image, task.classes, heads=len(task.heads))
        return {"say": "ok"}, outputs_of(prediction)

    def estimate(self, header: Mapping[str, Any], _: Mapping[str, Tensor]) -> Answer:
        """An estimator's values for all images."""
        assert self.model is not None  # a host sends the weights first
        images = AskedFor(self._fetched, range(header["cases"]))
        found = self.method.estimate(copy.deepcopy(self.model), self._access(), images)
        check_estimates(found, len(images), self.model.task.classes - 1)
        return {"say": "ok"}, {"estimates": found.as_subclass(Tensor)}

    def prepare(self, header: Mapping[str, Any], _: Mapping[str, Tensor]) -> Answer:
        """A method's own source training, or its sidecar beside the shared model."""
        source, source_val = (self._labelled(name) for name in ("source", "source_val"))
        if not hasattr(self.method, "prepare"):
            sidecar = self.method.summarise(self.model, source, source_val)
            return {"say": "ok", "own": False}, _named("sidecar", sidecar)
        prepared = self.method.prepare(
            source,
            source_val,
            lambda: self._built().to(self.device),
            recipe=recipe_of(self.terms),
            rng=generator(header["seed"], "prepare", self.code.source.stem),  # variants of a file share their draws
        )
        state = prepared.model.state_dict()
        return {"say": "ok", "own": True}, {**_named("model", state), **_named("sidecar", prepared.sidecar)}

    def _built(self) -> Normalised:
        """The untrained backbone; a network that is a file came as text."""
        network, file = dict(self.terms["network"]), self.terms["network_file"]
        if file is not None:
            name, _, of = network["architecture"]["network"].rpartition(":")
            path = self.folder / "network" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.encode())
            network["architecture"] = {**network["architecture"], "network": f"{path}:{of}"}
        return untrained(network, self.terms["channels"])

    def _labelled(self, name: str) -> LabelledSet | None:
        if name not in self.sets:
            return None
        cases = self.sets[name]
        return LabelledSet(cases.images, cases.references, cases.patients, cases.instances if self.counted else None)

    def _access(self) -> Access:
        """What the track grants, the same object for every call."""
        if self.access is None:
            target = self.sets.get("target")
            self.access = Access(
                recipe=recipe_of(self.terms),
                source=self._labelled("source"),
                source_val=self._labelled("source_val"),
                target=None if target is None else UnlabelledSet(target.images),
                fewshot=self._labelled("fewshot"),
                sidecar=self.sidecar,
            )
        return self.access

    def _fetched(self, index: int) -> Tensor:
        """One image, asked of the host."""
        with self.pipe:
            frames.write(self.outlet, {"say": "want", "image": index})
            frame = self._next()
        if frame is None:
            raise EOFError("the host hung up")
        return frame.tensors["image"].to(self.device)


class AskedFor(Sequence[Tensor]):
    """Images (c, *s), each asked of the host when it is looked at: a whole target need not fit into memory."""

    def __init__(self, fetch: Callable[[int], Tensor], places: range):
        self.fetch, self.places = fetch, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> AskedFor: ...
    def __getitem__(self, index: int | slice) -> Tensor | AskedFor:
        if isinstance(index, slice):
            return AskedFor(self.fetch, self.places[index])
        return self.fetch(self.places[index])


def outputs_of(prediction: Prediction) -> dict[str, Tensor]:
    """The tensors of a prediction by name, as torch's own kind."""
    given = {name: getattr(prediction, name) for name in OUTPUTS}
    return {name: value.as_subclass(Tensor) for name, value in given.items() if value is not None}


def _named(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors under "prefix.name".

    Raises:
        MethodError: one of them is none.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise MethodError(f"the {prefix}'s '{name}' is a {type(value).__name__}", remedy="give a torch tensor")
    return {f"{prefix}.{name}": value.as_subclass(Tensor) for name, value in tensors.items()}


COMMANDS: Mapping[str, Callable[[Desk, Mapping[str, Any], Mapping[str, Tensor]], Answer]] = {
    "card": Desk.card,
    "hello": Desk.hello,
    "weights": Desk.weights,
    "grant": Desk.grant,
    "case": Desk.case,
    "adapt": Desk.adapt,
    "predict": Desk.predict,
    "estimate": Desk.estimate,
    "prepare": Desk.prepare,
}
