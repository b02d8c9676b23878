"""Any other torch module as a backbone: MONAI's, an installed package's, or a user's own file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from shiftbench.backbones import Backbone
from shiftbench.errors import SpecError, nearest

MONAI = "monai.networks.nets"


def other_network(spec: Backbone, *, dimension: int, channels: int, outputs: int) -> nn.Module:
    """The module that `spec.network` names, built, and tried once on an image of zeros.

    The class (or function that returns a module) is called with `in_channels`, `out_channels` and `spatial_dims` as far
    as it takes them, and with the arguments of `spec`.

    Raises:
        SpecError: there is no such class, it does not take an argument or lacks one, `multiple` is missing, or its
            output does not have the channels and the grid that were asked for.
    """
    if spec.multiple is None:
        raise SpecError(
            f"the backbone {spec.network} has no `multiple`",
            remedy="say which number spatial sizes must be a multiple of (its total stride, or 1)",
        )
    network = _called(spec, {"in_channels": channels, "out_channels": outputs, "spatial_dims": dimension})
    for name, path in spec.features:
        _check_path(network, name, path, spec.network)
    _try(network, spec, dimension=dimension, channels=channels, outputs=outputs)
    return network


def resolved(network: str) -> Callable[..., Any]:
    """The class or function that "monai:NAME", "package.module:NAME" or "path/to/file.py:NAME" stands for."""
    place, _, name = network.rpartition(":")
    if not place:
        raise SpecError(
            f"unknown network '{network}'", remedy="give 'unet', 'monai:NAME', 'package.module:NAME' or 'FILE.py:NAME'"
        )
    module = _file(Path(place)) if place.endswith(".py") else _module(MONAI if place == "monai" else place)
    found = getattr(module, name, None)
    if not callable(found):
        classes = [  # under their own names: MONAI has several aliases for most
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module) and v.__name__ == n
        ]
        raise SpecError(f"{place} has no network '{name}'", remedy=nearest(name, classes))
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SpecError(f"the module '{name}' of a backbone cannot be imported ({error})") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SpecError("no such file of a backbone", where=path, remedy="check the path")
    content = path.read_bytes()
    name = f"shiftbench_backbone_{sha256(content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)  # what was hashed is what is run
    except Exception as error:  # whatever a user's file does on import
        del sys.modules[name]
        raise SpecError(f"cannot be loaded ({type(error).__name__}: {error})", where=path) from error
    return module


def _called(spec: Backbone, layout: dict[str, int]) -> nn.Module:
    kind, arguments = resolved(spec.network), dict(spec.arguments)
    parameters = inspect.signature(kind).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in arguments if name not in parameters and not takes_all]
    if unknown:
        raise SpecError(f"{spec.network} takes no argument '{unknown[0]}'", remedy=nearest(unknown[0], parameters))
    given = {name: value for name, value in layout.items() if name in parameters or takes_all} | arguments
    required = [
        n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    missing = [name for name in required if name not in given]
    if missing:
        raise SpecError(f"{spec.network} needs {', '.join(missing)}", remedy="give what it needs in `arguments`")
    try:
        network = kind(**given)
    except Exception as error:  # whatever a constructor refuses
        raise SpecError(f"{spec.network} cannot be built ({type(error).__name__}: {error})") from error
    if not isinstance(network, nn.Module):
        raise SpecError(f"{spec.network} gives a {type(network).__name__}", remedy="give a torch.nn.Module")
    return network


def _check_path(network: nn.Module, name: str, path: str, of: str) -> None:
    try:
        network.get_submodule(path)
    except AttributeError as error:
        paths = [n for n, _ in network.named_modules() if n and n.count(".") <= path.count(".")]
        raise SpecError(f"{of} has no submodule '{path}' (feature '{name}')", remedy=nearest(path, paths)) from error


@torch.no_grad()
def _try(network: nn.Module, spec: Backbone, *, dimension: int, channels: int, outputs: int) -> None:
    """One forward pass in evaluation mode, which leaves running statistics as they are."""
    size = (2 * (spec.multiple or 1),) * dimension  # an instance norm needs two positions at the coarsest level
    network.eval()
    try:
        out = network(torch.zeros(1, channels, *size))
    except Exception as error:  # whatever a forward pass raises
        raise SpecError(
            f"{spec.network} fails on an image of {' x '.join(map(str, size))} with {channels} channels "
            f"({type(error).__name__}: {error})",
            remedy="check its arguments and `multiple`",
        ) from error
    finally:
        network.train()
    finest = out if isinstance(out, Tensor) else out[0]
    if finest.ndim > dimension + 2:  # DynUNet's levels in one tensor (b, levels, o, *s)
        finest = finest[:, 0]
    if tuple(finest.shape) != (1, outputs, *size):
        raise SpecError(
            f"{spec.network} turns (1, {channels}, {', '.join(map(str, size))}) into {tuple(finest.shape)}",
            remedy=f"its output must have {outputs} channels on the grid of the image",
        )
