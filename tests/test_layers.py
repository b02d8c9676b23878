"""Imports go strictly downwards (docs/architecture.md); heavy libraries stay out of the command line's start."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Floor of every module, lowest first; a module imports only from lower floors, or from its own package.
FLOORS = [
    {"types", "rng", "errors", "version", "tasks"},
    {"backbones", "machine"},
    {"spec", "shifts", "data", "metrics", "networks", "losses", "instances"},
    {"stats", "train", "inference", "contract", "overrides", "questions"},
    {"robustness", "blocks", "loading"},
    {"api", "methods"},
    {"guest"},  # what runs beside a method's code, and the lower floors that it imports: the sandbox holds no more
    {"isolation"},
    {"store"},
    {"domains"},
    {"graph"},
    {"parts"},
    {"materialise", "scoring", "agreement", "cards", "selftest"},
    {"plan"},
    {"worker", "watch"},
    {"engine"},
    {"runner"},
    {"check", "diagnosis", "listings"},
    {"audit", "keeping"},
    {"report"},
    {"certificate"},
    {"cli"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


def modules():
    return sorted(p for p in (ROOT / "shiftbench").rglob("*.py") if "_content" not in p.parts)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "shiftbench").parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "shiftbench":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found |= {(name, node.lineno) for name in names}
        if isinstance(node, ast.Import):
            found |= {(a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("shiftbench.")}
    return found


@pytest.mark.parametrize("path", [p for p in modules() if room(p) != "__init__"], ids=lambda p: p.stem)
def test_a_module_imports_only_from_lower_floors(path):
    mine = room(path)
    assert mine in FLOOR, f"give {mine} a floor"
    for other, line in imported(path):
        assert other == mine or FLOOR[other] < FLOOR[mine], f"{path}:{line} imports {other}"


def test_baselines_import_the_api_alone():
    allowed = {"torch", "monai", "numpy", "scipy", "sklearn", "skimage", "SimpleITK"} | set(sys.stdlib_module_names)
    for path in sorted((ROOT / "baselines").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name == "shiftbench.api" or name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_nothing_imports_the_baselines():
    for path in modules():
        assert "import baselines" not in path.read_text() and "from baselines" not in path.read_text(), path


def loaded_by(code: str) -> set[str]:
    script = (
        f"import sys\n{code}\nprint(*(m for m in ('torch', 'monai', 'torchio', 'pandas', 'scipy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


HEAVY = {"torch", "monai", "torchio", "pandas"}


@pytest.mark.parametrize("what", ["scenarios", "methods", "shifts", "backbones", "metrics", "features", "datasets"])
def test_listing_does_not_import_heavy_libraries(what):
    assert not loaded_by(f"from shiftbench.listings import TABLES\nassert TABLES[{what!r}]()[1]\nprint()") & HEAVY


def test_the_command_line_and_the_stored_leaderboard_start_without_heavy_libraries():
    assert not loaded_by("import shiftbench.cli, shiftbench.report.stored\nprint()") & HEAVY


def test_planning_and_reporting_do_not_import_torch():
    assert not loaded_by("import shiftbench.runner, shiftbench.report.results, shiftbench.report.figures\nprint()") & {
        "torch",
        "monai",
    }


def test_a_process_that_scores_does_not_import_a_method():
    mine = "[m for m in sys.modules if m.startswith('shiftbench.')]"
    loaded_by(f"import shiftbench.worker.data\nassert not any('method' in m for m in {mine}), {mine}\nprint()")
