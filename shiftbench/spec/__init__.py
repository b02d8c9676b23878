"""Scenario and suite files: TOML in, frozen and fully checked objects out."""

from shiftbench.spec.factorial import missing_cells
from shiftbench.spec.files import (
    content_root,
    load_scenario,
    load_suite,
    parse,
    read_toml,
    scenario_files,
    suite_files,
)
from shiftbench.spec.scenario import (
    BUDGET_NAMES,
    BUDGETS,
    Dimension,
    Factorial,
    Phantom,
    Scenario,
    Stream,
    Structure,
    Suite,
    Training,
)
from shiftbench.spec.sealed import SALT_VARIABLE, commitment, unsealed
from shiftbench.spec.target import CELL_SIGN, PERMUTED, RESELECT, Source, Step, Target

__all__ = [
    "BUDGETS",
    "BUDGET_NAMES",
    "CELL_SIGN",
    "PERMUTED",
    "RESELECT",
    "SALT_VARIABLE",
    "Dimension",
    "Factorial",
    "Phantom",
    "Scenario",
    "Source",
    "Step",
    "Stream",
    "Structure",
    "Suite",
    "Target",
    "Training",
    "commitment",
    "content_root",
    "load_scenario",
    "load_suite",
    "missing_cells",
    "parse",
    "read_toml",
    "scenario_files",
    "suite_files",
    "unsealed",
]
