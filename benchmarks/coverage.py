"""Coverage of intervals, false claims of "A beats B", and speed of the bootstrap, by simulation.

Scores of a method are a truth of 0 plus the effect of a patient (gamma of shape 2, skewed), of a seed, and of seed and
patient together (both normal). Design: METRICS.md, section 5.4.

    python benchmarks/coverage.py                                              # prints the tables; under two minutes
    python benchmarks/coverage.py --replicates 4000 --write benchmarks/results/coverage
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from shiftbench.rng import generator
from shiftbench.stats import (
    crossed_bootstrap,
    crossed_weights,
    drawn_shares,
    mean_limits,
    pooled_interval,
    rank_distribution,
)

CHUNK = 250  # replicates that share their bootstrap weights
MORE = 5  # times as many for the t test, which is fast
RESAMPLES = 1000  # for the percentiles of one replicate
LEVEL = 0.95


@dataclass(frozen=True)
class Design:
    """Seeds, patients and the standard deviations of a score; `target_sd` is that of patient and target together."""

    seeds: int
    patients: int
    seed_sd: float = 0.015
    case_sd: float = 0.10
    interaction_sd: float = 0.03
    target_sd: float = 0.05


# METRICS.md 5.4
MEANS = (Design(3, 20), Design(3, 50), Design(5, 20), Design(5, 100), Design(3, 50, seed_sd=0.03))
# `case_sd` is that of the difference between the methods from patient to patient
NULLS = tuple(
    Design(seeds, patients, seed_sd=seed_sd, case_sd=case_sd)
    for seeds in (2, 3, 5, 10)
    for patients in (20, 50, 100)
    for seed_sd, case_sd in ((0.015, 0.01), (0.015, 0.05), (0.03, 0.05))
)
POOLED = (("shared", (30, 30, 30)), ("disjoint", (20, 30)), ("disjoint", (20, 20, 20, 20)), ("disjoint", (100, 20)))


def skewed(draw: np.random.Generator, shape: tuple[int, ...], sd: float) -> np.ndarray:
    """Effects of patients: gamma of shape 2, centred."""
    return (draw.gamma(2.0, 1.0, shape) - 2.0) / np.sqrt(2.0) * sd


def scores(draw: np.random.Generator, design: Design, replicates: int) -> np.ndarray:
    """Tables of one method, shape (replicates, S, N), whose true mean is 0."""
    s, n = design.seeds, design.patients
    seeds = draw.normal(0.0, design.seed_sd, (replicates, s, 1))
    return seeds + skewed(draw, (replicates, 1, n), design.case_sd) + normal(draw, design, replicates)


def normal(draw: np.random.Generator, design: Design, replicates: int) -> np.ndarray:
    return draw.normal(0.0, design.interaction_sd, (replicates, design.seeds, design.patients))


def null_pair(draw: np.random.Generator, design: Design, replicates: int) -> np.ndarray:
    """Differences (replicates, S, N) of two equally good methods on the same patients, each with seeds of its own."""
    apart = skewed(draw, (replicates, 1, design.patients), design.case_sd)
    one, two = (
        draw.normal(0.0, design.seed_sd, (replicates, design.seeds, 1)) + normal(draw, design, replicates)
        for _ in range(2)
    )
    return apart + one - two


def pooled_weights(draw: np.random.Generator, s: int, n: int) -> np.ndarray:
    """Every score drawn on its own."""
    return drawn_shares(s * n, resamples=RESAMPLES, rng=draw, draws=s * n)


def nested_weights(draw: np.random.Generator, s: int, n: int) -> np.ndarray:
    """Seeds drawn, and then patients anew within each drawn seed."""
    weights = np.zeros((RESAMPLES, s, n))
    for seed in draw.integers(0, s, (s, RESAMPLES)):
        weights[np.arange(RESAMPLES), seed] += drawn_shares(n, resamples=RESAMPLES, rng=draw, draws=n) / s
    return weights.reshape(RESAMPLES, -1)


def case_weights(draw: np.random.Generator, s: int, n: int) -> np.ndarray:
    """Patients drawn, seeds kept."""
    patients = drawn_shares(n, resamples=RESAMPLES, rng=draw, draws=n)
    return np.repeat(patients[:, None, :] / s, s, axis=1).reshape(RESAMPLES, -1)


def usual_weights(draw: np.random.Generator, s: int, n: int) -> np.ndarray:
    """Patients crossed with seeds, as many draws of either as there are."""
    seeds = drawn_shares(s, resamples=RESAMPLES, rng=draw, draws=s)
    patients = drawn_shares(n, resamples=RESAMPLES, rng=draw, draws=n)
    return (seeds[:, :, None] * patients[:, None, :]).reshape(RESAMPLES, -1)


def our_weights(draw: np.random.Generator, s: int, n: int) -> np.ndarray:
    """Patients crossed with seeds, one draw fewer."""
    seeds, (patients,) = crossed_weights(s, [n], resamples=RESAMPLES, rng=draw)
    return (seeds[:, :, None] * patients[:, None, :]).reshape(RESAMPLES, -1)


BOOTSTRAPS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "pooled": pooled_weights,
    "nested": nested_weights,
    "case only": case_weights,
    "crossed": usual_weights,
    "crossed, n - 1": our_weights,
}


def bootstrap_coverage(name: str, design: Design, replicates: int) -> float:
    """Share of the tables whose percentile interval of the mean holds 0."""
    draw = generator(0, "coverage", name, str(design))
    hits = 0
    for start in range(0, replicates, CHUNK):
        y = scores(draw, design, min(CHUNK, replicates - start))
        weights = BOOTSTRAPS[name](draw, design.seeds, design.patients)
        low, high = np.quantile(y.reshape(len(y), -1) @ weights.T, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        hits += int(((low <= 0) & (high >= 0)).sum())
    return hits / replicates


def t_coverage(design: Design, replicates: int) -> float:
    """Share of the tables whose t interval holds 0."""
    _, low, high = mean_limits(scores(generator(0, "coverage", "t", str(design)), design, replicates), LEVEL)
    return float(((low <= 0) & (high >= 0)).mean())


def false_claims(design: Design, replicates: int) -> float:
    """Share of the null pairs of which the two-sided test says that one of them is better."""
    draw, claims = generator(0, "null", str(design)), 0
    for start in range(0, replicates, CHUNK):
        _, low, high = mean_limits(null_pair(draw, design, min(CHUNK, replicates - start)), LEVEL)
        claims += int(((low > 0) | (high < 0)).sum())
    return claims / replicates


def false_claims_of_ranks(design: Design, replicates: int) -> float:
    """The same for Wilcoxon's test of the patients' means over seeds."""
    pairs = null_pair(generator(0, "null", str(design)), design, replicates).mean(axis=1)
    return float((wilcoxon(pairs, zero_method="pratt", axis=1).pvalue < 1 - LEVEL).mean())


def pooled_coverage(kind: str, sizes: Sequence[int], n_seeds: int, seed_sd: float, replicates: int) -> float:
    """Share of the intervals of several targets' mean that hold 0; patients are shared only if `kind` says so."""
    draw = generator(0, "pooled", kind, list(sizes), n_seeds, seed_sd)
    design = Design(n_seeds, sum(sizes), seed_sd=seed_sd)
    names, hits = np.arange(sum(sizes)), 0
    ends = np.cumsum(sizes)[:-1]
    for _ in range(replicates):
        if kind == "shared":
            seeds = draw.normal(0.0, seed_sd, (n_seeds, 1))
            patients = skewed(draw, (sizes[0],), design.case_sd)
            same = Design(n_seeds, sizes[0])
            extra = [skewed(draw, (sizes[0],), design.target_sd) + normal(draw, same, 1)[0] for _ in sizes]
            tables = [pd.DataFrame(seeds + patients + own) for own in extra]
        else:
            parts = np.split(scores(draw, design, 1)[0], ends, axis=1)
            tables = [pd.DataFrame(p, columns=c) for p, c in zip(parts, np.split(names, ends), strict=True)]
        interval = pooled_interval(tables, level=LEVEL)
        hits += bool(interval.low is not None and interval.high is not None and interval.low <= 0 <= interval.high)
    return hits / replicates


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Shortest of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of_means(replicates: int) -> str:
    body = []
    for design in MEANS:
        found = [bootstrap_coverage(name, design, replicates) for name in BOOTSTRAPS] + [t_coverage(design, replicates)]
        body.append([f"{design.seeds} x {design.patients}", f"{design.seed_sd}", *(f"{100 * c:.1f}" for c in found)])
    return grid(["seeds x patients", "seed SD", *BOOTSTRAPS, "two-way t"], body)


def table_of_pooled(replicates: int) -> str:
    body = []
    for kind, sizes in POOLED:
        for n_seeds, seed_sd in ((3, 0.015), (3, 0.03), (5, 0.015)):
            found = pooled_coverage(kind, sizes, n_seeds, seed_sd, replicates)
            body.append([kind, " + ".join(map(str, sizes)), str(n_seeds), f"{seed_sd}", f"{100 * found:.1f}"])
    return grid(["patients of the targets", "patients", "seeds", "seed SD", "two-way t"], body)


def table_of_nulls(replicates: int) -> str:
    body = []
    for design in NULLS:
        found = false_claims(design, MORE * replicates), false_claims_of_ranks(design, max(1, replicates // 4))
        size = [f"{design.seeds} x {design.patients}", f"{design.seed_sd}", f"{design.case_sd}"]
        body.append([*size, *(f"{100 * f:.1f}" for f in found)])
    return grid(["seeds x patients", "seed SD", "SD of the patients' difference", "paired t", "Wilcoxon"], body)


def table_of_speed() -> str:
    methods = generator(0, "speed").normal(size=(20, 5, 500))
    taken = seconds(lambda: crossed_bootstrap(methods, lambda m: m, resamples=10_000, rng=generator(0, "speed")))
    patients = [list(range(500))]
    ranked = seconds(lambda: rank_distribution([methods], patients, [1.0], resamples=10_000, rng=generator(0, "speed")))
    body = [["crossed_bootstrap of the means", f"{taken:.2f}"], ["rank_distribution", f"{ranked:.2f}"]]
    return grid(["10,000 resamples of 20 methods x 5 seeds x 500 patients", "seconds"], body)


def document(replicates: int) -> str:
    """The tables with what they say."""
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / replicates)
    fewer = max(1, replicates // 4)
    parts = [
        " ".join(["python benchmarks/coverage.py", *sys.argv[1:]]),
        f"{replicates} simulated tables for each figure: standard error {error:.1f} points near 95 %.",
        "## Means: how many of 100 intervals of 95 % hold the truth",
        table_of_means(replicates),
        "Percentile bootstraps of 1000 resamples. Pooled: every score on its own. Nested: patients anew within each"
        " drawn seed. Case only: seeds kept. Crossed: one draw of seeds and one of patients, as many as there are; n -"
        " 1: one fewer of either, which is what `crossed_bootstrap` does.",
        "## Mean of several targets (they share the seeds)",
        table_of_pooled(replicates),
        '## "A beats B" where neither does: false claims of 100, in either direction',
        table_of_nulls(replicates),
        f"Two-sided, 5 %, one pair; {MORE * replicates} tables. Wilcoxon: of the patients' differences averaged over"
        f" seeds (Pratt), {fewer} tables; it holds for the trained models alone.",
        "## Speed, shortest of three",
        table_of_speed(),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=4000)
    parser.add_argument("--write", type=Path, metavar="PREFIX", help="of the .md file")
    options = parser.parse_args()
    text = document(options.replicates) + "\n"
    print(text, end="")
    if options.write:
        options.write.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
