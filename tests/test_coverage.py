"""Intervals hold what they say, by simulation: the fast form of benchmarks/coverage.py, on the functions in use."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

# By its path: a package of the same name measures test coverage.
SPEC = spec_from_file_location("interval_coverage", Path(__file__).parents[1] / "benchmarks" / "coverage.py")
coverage = sys.modules[SPEC.name] = module_from_spec(SPEC)
SPEC.loader.exec_module(coverage)
Design = coverage.Design

REPLICATES = 4000  # standard error 0.35 points at 95 %
PROBLEMS = Design(3, 50, seed_sd=0.03)  # where seeds matter most


@pytest.mark.parametrize("design", coverage.MEANS, ids=str)
def test_the_t_interval_of_a_mean_holds_the_truth_in_about_95_of_100(design):
    assert 0.925 <= coverage.t_coverage(design, REPLICATES) <= 0.97


@pytest.mark.parametrize("design", [d for d in coverage.NULLS if d.seeds in (3, 5)], ids=str)
def test_a_beats_b_is_seldom_said_where_neither_does(design):
    limit = 0.08 if design.seeds == 3 else 0.065
    assert 0.03 <= coverage.false_claims(design, REPLICATES) <= limit + 0.004  # one standard error


def test_a_real_difference_is_found():
    draw = coverage.generator(0, "power")
    pairs = coverage.null_pair(draw, Design(5, 50, seed_sd=0.005, case_sd=0.03), 1000) + 0.02
    _, low, _ = coverage.mean_limits(pairs)
    assert (low > 0).mean() > 0.8


def test_other_bootstraps_are_too_narrow_and_the_crossed_one_nearly_wide_enough():
    found = {name: coverage.bootstrap_coverage(name, PROBLEMS, 1000) for name in coverage.BOOTSTRAPS}
    assert max(found["pooled"], found["nested"], found["case only"]) < 0.82
    assert 0.85 < found["crossed"] < found["crossed, n - 1"] < 0.96


@pytest.mark.parametrize(("kind", "sizes"), coverage.POOLED, ids=str)
def test_the_mean_of_several_targets_is_held_as_well(kind, sizes):
    assert 0.925 <= coverage.pooled_coverage(kind, sizes, 3, 0.015, 1500) <= 0.97


def test_the_rank_test_of_patients_says_nothing_about_other_seeds():
    assert coverage.false_claims_of_ranks(PROBLEMS, 300) > 0.3


def test_the_benchmark_writes_its_tables():
    text = coverage.document(20)
    for words in ("| 3 x 50 | 0.03 |", "two-way t", "Wilcoxon", "disjoint", "rank_distribution"):
        assert words in text
