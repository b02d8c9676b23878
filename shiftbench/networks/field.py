"""Receptive fields, worked out from the graph of a network: how many voxels an output can depend on."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from shiftbench.errors import NotApplicable
from shiftbench.networks.upsample import FACTOR, SubPixelConv2d, SubPixelConv3d
from shiftbench.networks.wrapper import Normalised

Interval = tuple[int, int]  # first and last index
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish)
# Norms act voxel by voxel here: what reaches a voxel through their means and variances is the whole tile.
POINTWISE = (*ACTIVATIONS, _BatchNorm, _InstanceNorm, nn.GroupNorm, _DropoutNd, nn.Identity, nn.Softmax)
POINTWISE_CALLS = {
    *(torch.cat, torch.add, torch.mul, torch.relu, torch.sigmoid, operator.add, operator.iadd, operator.mul),
    *(functional.relu, functional.leaky_relu, functional.gelu, functional.dropout, functional.silu),
}


class Reading(NamedTuple):
    """What a layer reads along one axis.

    Attributes:
        stride: input steps per output step.
        inputs: first and last input index behind a range of output indices, on an endless image.
    """

    stride: Fraction
    inputs: Callable[[int, int], Interval]


def receptive_field(network: nn.Module, at: str = "output") -> tuple[int, int, int]:
    """Voxels (z, y, x) from the first to the last that an output voxel depends on, the largest over output positions.

    A 2-D network sees 1 slice and a 2.5-D one its stack, however deep it is. Counted on an endless image. Norm layers
    count voxel by voxel, as batch norm acts when it predicts; the statistics of instance and group norm (and of batch
    norm while training) depend on the whole tile.

    Args:
        network: also a `Normalised`; its layers must be convolutions, pooling, up-sampling and voxel-wise ones.
        at: "output", a declared feature of a `Normalised` ("bottleneck"), or the path of a submodule.

    Raises:
        NotApplicable: the network cannot be traced, holds a layer that is not known here, or has no such submodule.

    Reference:
        Araujo, Norris, Sim, Computing receptive fields of convolutional neural networks, Distill 2019.
    """
    stack = 1
    if isinstance(network, Normalised):
        at, stack = network.features.get(at, at), network.stack
        network = network.network
    end, layers = _traced(network, at)
    axes = max((_dimension(layer) for layer in layers.values()), default=0) or 2
    sizes = [_size(end, layers, axis) for axis in range(axes)]
    return (stack, *sizes) if axes == 2 else tuple(sizes)  # type: ignore[return-value]


def in_mm(voxels: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """A receptive field (z, y, x) in mm, from the first voxel's far face to the last one's."""
    return tuple(n * mm for n, mm in zip(voxels, spacing_mm, strict=True))


class _Tracer(fx.Tracer):
    """Follows the network into everything but the layers whose reading is known; notes where submodules end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, fx.Node] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, KNOWN) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            self.ends[self.path_of_module(m)] = out.node
        return out


def _traced(network: nn.Module, at: str) -> tuple[fx.Node, dict[str, nn.Module]]:
    """Node of the output or of a submodule, and the layers by path."""
    network, tracer = copy.deepcopy(network).eval(), _Tracer()  # deep supervision has one output when it predicts
    network = nn.Sequential(network) if isinstance(network, KNOWN) else network
    try:
        graph = tracer.trace(network)
    except Exception as error:  # fx raises whatever the network's control flow makes of a proxy
        raise NotApplicable(f"the graph of a {type(network).__name__} cannot be followed ({error})") from error
    layers = {node.target: network.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    if at == "output":
        return next(node for node in graph.nodes if node.op == "output").all_input_nodes[0], layers
    if at not in tracer.ends:
        raise NotApplicable(f"a {type(network).__name__} has no submodule '{at}' with one output")
    return tracer.ends[at], layers


def _size(end: fx.Node, layers: dict[str, nn.Module], axis: int) -> int:
    order = [node for node in end.graph.nodes if node in _ancestors(end)]
    readings = {node: _reading_of(node, layers, axis) for node in order}
    steps: dict[fx.Node, Fraction] = {}  # input voxels per step
    for node in order:
        behind = [steps[source] for source in node.all_input_nodes]
        steps[node] = max(behind, default=Fraction(1)) * readings[node].stride
    period = math.ceil(max(steps.values()) / steps[end])
    return max(_extent(end, order, readings, position) for position in range(period))


def _extent(end: fx.Node, order: list[fx.Node], readings: dict[fx.Node, Reading], position: int) -> int:
    needed: dict[fx.Node, Interval] = {end: (position, position)}
    for node in reversed(order):
        if node.op == "placeholder":
            first, last = needed[node]
            return last - first + 1
        first, last = readings[node].inputs(*needed[node])
        for source in node.all_input_nodes:
            known = needed.get(source, (first, last))
            needed[source] = min(first, known[0]), max(last, known[1])
    raise NotApplicable("the output does not depend on the input")


def _ancestors(end: fx.Node) -> set[fx.Node]:
    found, waiting = set(), [end]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _reading_of(node: fx.Node, layers: dict[str, nn.Module], axis: int) -> Reading:
    if node.op == "placeholder" or (node.op == "call_function" and node.target in POINTWISE_CALLS):
        return VOXEL
    layer = layers.get(str(node.target)) if node.op == "call_module" else None
    read = next((read for kinds, read in READINGS if isinstance(layer, kinds)), None)
    if layer is None or read is None:
        what = type(layer).__name__ if layer is not None else str(node.target)
        raise NotApplicable(f"what '{node.name}' ({what}) reads is not known")
    return read(layer, axis)


def _convolution(layer: Any, axis: int) -> Reading:
    kernel, stride, padding, dilation = (
        _along(getattr(layer, name, 1), axis) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    reach = dilation * (kernel - 1)
    return Reading(Fraction(stride), lambda a, b: (a * stride - padding, b * stride - padding + reach))


def _transposed(layer: Any, axis: int) -> Reading:
    kernel, stride, padding, dilation = (
        _along(getattr(layer, name), axis) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    if dilation > 1 or kernel < stride:
        raise NotApplicable("what a transposed convolution with gaps reads is not known")
    return Reading(Fraction(1, stride), lambda a, b: (-((kernel - 1 - a - padding) // stride), (b + padding) // stride))


def _sub_pixel(layer: Any, axis: int) -> Reading:
    inner = _convolution(layer, axis)
    return Reading(inner.stride / FACTOR, lambda a, b: inner.inputs(a // FACTOR, b // FACTOR))


def _interpolation(layer: Any, axis: int) -> Reading:
    if layer.scale_factor is None or layer.align_corners or layer.mode not in ("nearest", "bilinear", "trilinear"):
        raise NotApplicable(f"what an interpolation '{layer.mode}' to a fixed size or by aligned corners reads is open")
    scale = Fraction(_along(layer.scale_factor, axis))
    if layer.mode == "nearest":
        return Reading(1 / scale, lambda a, b: (math.floor(a / scale), math.floor(b / scale)))
    half = Fraction(1, 2)  # centres of voxels lie at index + 1/2

    def inputs(a: int, b: int) -> Interval:
        return math.floor((a + half) / scale - half), math.ceil((b + half) / scale - half)

    return Reading(1 / scale, inputs)


def _along(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, tuple | list) else value


def _dimension(layer: nn.Module) -> int:
    return layer.weight.ndim - 2 if isinstance(layer, _ConvNd) else 0


VOXEL = Reading(Fraction(1), lambda a, b: (a, b))
READINGS: tuple[tuple[Any, Callable[[Any, int], Reading]], ...] = (  # the first kind that fits counts
    ((SubPixelConv2d, SubPixelConv3d), _sub_pixel),
    (_ConvTransposeNd, _transposed),
    ((_ConvNd, _MaxPoolNd, _AvgPoolNd), _convolution),
    (nn.Upsample, _interpolation),
    (POINTWISE, lambda layer, axis: VOXEL),
)
KNOWN = tuple(kind for kinds, _ in READINGS for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
