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
from shiftbench.spec.scenario import Factorial, Phantom, Scenario, Stream, Structure, Suite
from shiftbench.spec.sealed import SALT_VARIABLE, commitment, unsealed
from shiftbench.spec.target import CELL_SIGN, PERMUTED, RESELECT, Source, Step, Target
from shiftbench.spec.training import BUDGET_NAMES, BUDGETS, LOSS_NAMES, Architecture, Dimension, Instances, Training

__all__ = [
    "BUDGETS",
    "BUDGET_NAMES",
    "CELL_SIGN",
    "LOSS_NAMES",
    "PERMUTED",
    "RESELECT",
    "SALT_VARIABLE",
    "Architecture",
    "Dimension",
    "Factorial",
    "Instances",
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
