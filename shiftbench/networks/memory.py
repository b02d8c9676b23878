"""Memory of a training step's activations, layer by layer and without computing any."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Activation(NamedTuple):
    """What a layer adds to the memory of a training step.

    Attributes:
        layer: path of the layer.
        shape: of its output.
        bytes: that are kept for the backward pass.
    """

    layer: str
    shape: tuple[int, ...]
    bytes: int


def activation_memory(network: nn.Module, shape: Sequence[int]) -> list[Activation]:
    """Bytes that the forward pass of a training step leaves behind for the backward pass, per layer in order.

    Counted is every storage that autograd keeps, once: at the layer that made it, or where no layer did (a
    concatenation) at the first one that keeps it. Not counted are weights, the input, the loss and what a layer needs
    only while it runs. Norms and activations that change their input in place share its storage. The pass runs on
    torch's meta device, so that any size costs nothing; cuDNN may keep a little more.

    Args:
        network: also a `Normalised`; it is left as it is.
        shape: of a batch of tiles (b, c, *s), with spatial sizes that the network takes.

    Returns:
        A row per layer without sublayers that ran; `total_bytes` adds them up.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    meta = copy.deepcopy(network).to("meta").train()
    return kept_activations(meta, torch.empty(tuple(shape), dtype=dtype, device="meta"))


def total_bytes(activations: Sequence[Activation], of: str = "") -> int:
    """Bytes of all layers, or of those below the path `of` ("encoder.0")."""
    return sum(a.bytes for a in activations if not of or a.layer == of or a.layer.startswith(f"{of}."))


def kept_activations(network: nn.Module, tiles: Tensor) -> list[Activation]:
    """The rows of `activation_memory` for a forward pass of these tiles on the device they lie on."""
    ledger = _Ledger([*network.parameters(), *network.buffers(), tiles])
    with ledger.watching(network), torch.enable_grad():
        out = network(tiles)  # kept to the end: a storage that is freed may come again under the same number
    rows = ledger.rows()
    del out
    return rows


class _Ledger:
    """Which layer made which storage, and which storages autograd kept."""

    def __init__(self, free: Sequence[Tensor]):
        self.free = {_number(t) for t in free}  # what is there anyway
        self.made: dict[int, str] = {}
        self.kept: dict[int, tuple[str, Any]] = {}  # number -> layer that kept it first, storage
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.running = [""]
        self.alive: list[Tensor] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        hooks: list[Any] = []
        for name, layer in network.named_modules():
            if next(layer.children(), None) is None:
                hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: self.running.append(name)))
                hooks.append(layer.register_forward_hook(lambda m, i, out, name=name: self.note(name, out)))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda t: t):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def note(self, name: str, out: Tensor) -> None:
        self.running.pop()
        self.shapes.setdefault(name, tuple(out.shape))
        self.made.setdefault(_number(out), name)
        self.alive.append(out)

    def keep(self, tensor: Tensor) -> Tensor:
        number = _number(tensor)
        if number not in self.free:
            self.kept.setdefault(number, (self.running[-1], tensor.untyped_storage()))
        return tensor

    def rows(self) -> list[Activation]:
        found = dict.fromkeys(self.shapes, 0)
        for number, (first, storage) in self.kept.items():
            layer = self.made.get(number, first)
            found[layer] = found.get(layer, 0) + storage.nbytes()
        return [Activation(name, self.shapes.get(name, ()), size) for name, size in found.items()]


def _number(tensor: Tensor) -> int:
    """One number per storage that is alive; on the meta device storages have no address."""
    return tensor.untyped_storage()._cdata
