"""What a check finds, and the checks that methods and estimators share."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shiftbench.blocks import require
from shiftbench.check.problem import COUNTED, Problem, problem
from shiftbench.errors import NotApplicable
from shiftbench.methods import LoadedMethod
from shiftbench.questions import Broken, Skipped

BACKBONES = ("unet_bn", "unet_in")
IMPORTS = {"torch", "monai", "numpy", "scipy", "sklearn", "skimage", "SimpleITK", *sys.stdlib_module_names}
OTHERS: dict[str, dict[str, Any]] = {
    "works with a 2.5-D network": {"dimension": 2, "stack": 3},
    "works with a 3-D network": {"dimension": 3},
    "works where instances are counted": {"dimension": 2, "task": COUNTED},
}
Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One clause of the contract and whether the method kept it; `detail` says what was seen."""

    check: str
    outcome: Outcome
    detail: str = ""


def tried(name: str, clause: Callable[[], str | None]) -> Finding:
    """The clause's finding; whatever it raises is a failure, told in one line."""
    try:
        return Finding(name, "ok", clause() or "")
    except Skipped as reason:
        return Finding(name, "skipped", str(reason))
    except Broken as broken:
        return Finding(name, "failed", str(broken))
    except Exception as error:  # a method may raise anything, and that is the finding
        return Finding(name, "failed", f"{type(error).__name__}: {error}")


def has_required(loaded: LoadedMethod, backbone: str) -> bool:
    """Whether a backbone of the check has what the method requires."""
    try:
        require(problem(backbone, 2).model, *loaded.method.requires)
    except NotApplicable:
        return False
    return True


def refuses_lacking(loaded: LoadedMethod, attempt: Callable[[Problem], object]) -> str:
    """Every backbone of the check that lacks something makes `attempt` raise NotApplicable."""
    lacking = [b for b in BACKBONES if not has_required(loaded, b)]
    if not lacking:
        raise Skipped("every backbone of the check has what it requires")
    for backbone in lacking:
        try:
            attempt(problem(backbone, 2))
        except NotApplicable:
            continue
        raise Broken(f"predicts with {backbone}, which has no {', '.join(loaded.method.requires)}")
    return ", ".join(lacking)


def imports_the_api_alone(path: Path) -> None:
    """Raises Broken for an import that the sandbox does not hold."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        for name in names:
            if name != "shiftbench.api" and name.partition(".")[0] not in IMPORTS:
                raise Broken(f"line {node.lineno} imports '{name}'; import from shiftbench.api")  # type: ignore[attr-defined]


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Changes whenever a value does."""
    return sha256(torch.cat([t.double().flatten() for t in tensors]).numpy().tobytes()).hexdigest()


def fingerprint(of: Problem) -> dict[str, str]:
    """Digest of everything a method is handed or could reach."""
    groups = {
        "the source model": list(of.model.state_dict().values()),
        "the test images": list(of.test),
        **{f"images of {n}": list(getattr(of, n).images) for n in ("source", "source_val", "adapt")},
        **{f"references of {n}": list(getattr(of, n).references) for n in ("source", "source_val", "adapt")},
    }
    return {name: digest_of(tensors) for name, tensors in groups.items()}


def refuse_changes(before: dict[str, str], of: Problem) -> None:
    """Raises Broken where something differs from its `fingerprint` before."""
    now = fingerprint(of)
    changed = [name for name, digest in before.items() if digest != now[name]]
    if changed:
        raise Broken(f"changed in place: {', '.join(changed)}")


def clause_by_clause(
    loaded: LoadedMethod,
    make: Callable[[Problem], Any],
    requires: Callable[[], str | None],
    clauses: Mapping[str, Callable[[Any], str | None]],
) -> list[Finding]:
    """Every clause of a contract, tried in turn; what cannot be tried because the first one broke is `skipped`.

    Args:
        loaded: the method or estimator.
        make: a trial of it on one problem, whose `first` holds what its first run gave and is empty before.
        requires: whether a backbone that lacks what it requires is refused.
        clauses: by what they say, called with a trial; the first one runs it, and is tried on `OTHERS` too.
    """
    findings = [tried("imports nothing of ShiftBench but shiftbench.api", lambda: imports_the_api_alone(loaded.path))]
    findings.append(tried("raises NotApplicable where the backbone lacks what it requires", requires))
    suitable = [b for b in BACKBONES if has_required(loaded, b)]
    if not suitable:
        words = f"requires {', '.join(loaded.method.requires)}"
        return [*findings, Finding("applies to a backbone of the check", "failed", words)]
    trial = make(problem(suitable[0], 2))
    running = next(iter(clauses.values()))
    for name, clause in clauses.items():
        broken = not len(trial.first) and clause is not running
        findings.append(Finding(name, "skipped") if broken else tried(name, functools.partial(clause, trial)))
    for words, other in OTHERS.items():
        findings.append(tried(words, functools.partial(running, make(problem(suitable[0], **other)))))
    return findings
