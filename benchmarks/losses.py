"""What losses do on a small lesion: early training, precision and recall, HD95, calibration, and each under shift.

A U-Net of the quick budget learns the liver tumours (about 0.5 % of the voxels) of the abdominal phantom, once per
loss and seed; a seed fixes the initial weights and every patch, so that losses see the same batches. Each network is
scored on patients of its own domain and of shifted ones.

    python benchmarks/losses.py                       # 28 minutes on one thread of a shared machine
    python benchmarks/losses.py --losses dice bce --seeds 1 --out /tmp/losses
    python benchmarks/losses.py --redraw              # tables and figures of the numbers that are there

Scores: DSC, HD95 (a missed tumour is infinitely far, so the median is given), missed tumours and ECE are of patients
with a tumour; precision and recall are of the voxels of all patients. ECE: 15 bins, per patient, of the tumour's
probability among the voxels within 10 mm of the reference, a region that no prediction can choose.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import edt
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.inference import forward
from shiftbench.losses import Objective, background_gradient_share
from shiftbench.materialise import acquired, drawn
from shiftbench.metrics import dsc, hd95_mm
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.spec import BUDGETS
from shiftbench.tasks import Task
from shiftbench.train import PatchSampler, fit
from shiftbench.types import LabelledSet, LossTerm

RESULTS = Path(__file__).parent / "results"
STEPS, SCORES = "losses_steps.csv", "losses_scores.csv"
STRUCTURE = "tumour"
SHAPE, SPACING_MM, PATCH = (12, 96, 96), (6.0, 4.2, 4.2), (96, 96)  # coarse, so that many trainings are affordable
ACQUISITION = {"sequence": "spgr", "field_t": 1.5, "tr_ms": 100, "te_ms": 4, "flip_deg": 80, "snr": 35}
ROI_MM, BINS = 10.0, 15  # region and bins of the ECE
SHARE_EVERY = 5  # steps between two measurements of the background's share of the gradient
CURVE = (0, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 250)  # steps before which the network is looked at
CURVE_PATIENTS = 6

TARGETS: Mapping[str, tuple[str, float] | None] = {  # operator and value: levels 2 and 4
    "source": None,
    "SNR 25": ("rician_noise", 25.0),
    "SNR 10": ("rician_noise", 10.0),
    "bias 20 %": ("bias_field", 20.0),
    "bias 60 %": ("bias_field", 60.0),
    "flip 70 %": ("flip_angle", 70.0),
    "flip 35 %": ("flip_angle", 35.0),
}


@dataclass(frozen=True)
class Loss:
    """Terms of an objective and the power of the inverse class frequencies that weight it."""

    terms: tuple[LossTerm, ...]
    balance: float = 0.0


def _tversky(alpha: float, beta: float) -> Loss:
    return Loss((LossTerm("tversky", options=(("alpha", alpha), ("beta", beta))),))


LOSSES: Mapping[str, Loss] = {
    "bce": Loss((LossTerm("bce"),)),  # of one structure: the cross-entropy
    "weighted ce": Loss((LossTerm("cross_entropy"),), balance=0.5),
    "focal": Loss((LossTerm("focal"),)),
    "dice": Loss((LossTerm("dice"),)),
    "tversky .3/.7": _tversky(0.3, 0.7),
    "tversky .1/.9": _tversky(0.1, 0.9),
    "dice + boundary": Loss((LossTerm("dice"), LossTerm("boundary", 0.0, 0.5))),
    "dice + hausdorff": Loss((LossTerm("dice"), LossTerm("hausdorff", 0.0, 0.1))),
}
# What is said of two losses: first, second, score, sign of the difference, digits.
CLAIMS = (
    ("tversky .3/.7", "dice", "recall", 1, 3),
    ("tversky .3/.7", "dice", "precision", -1, 3),
    ("tversky .1/.9", "tversky .3/.7", "recall", 1, 3),
    ("tversky .1/.9", "tversky .3/.7", "precision", -1, 3),
    ("dice + boundary", "dice", "hd95_mm", -1, 1),
    ("dice + hausdorff", "dice", "hd95_mm", -1, 1),
    ("bce", "dice", "ece", -1, 3),
    ("focal", "dice", "ece", -1, 3),
)
BETAS = {"dice": 0.5, "tversky .3/.7": 0.7, "tversky .1/.9": 0.9}


@dataclass(frozen=True)
class Cohort:
    """Raw images (c, d, h, w) and references (d, h, w) of some patients in one domain."""

    images: list[Tensor]
    references: list[Tensor]
    spacing: tuple[float, ...]

    def labelled(self) -> LabelledSet:
        return LabelledSet(self.images, self.references, [str(i) for i in range(len(self.images))])


def cohort(phantom: AbdomenPhantom, patients: Sequence[int], step: tuple[str, float] | None = None) -> Cohort:
    """Patients of the source, or under one operator."""
    acquisition, steps = check_acquisition({"modality": "mr", **ACQUISITION}), [Step(*step)] if step else []
    images, references = [], []
    for i in patients:
        anatomy = phantom.anatomy(f"p{i:04d}", {})
        image, _ = acquired(anatomy, phantom.digest, acquisition, steps, 0)
        images.append(torch.from_numpy(image.astype(np.float32)))
        references.append(torch.from_numpy(drawn(anatomy, phantom, [STRUCTURE], {}, steps=steps).astype(np.int64)))
    return Cohort(images, references, anatomy.geometry.spacing)


@dataclass
class Watch:
    """Looks at a network in the course of its training: share of the gradient, predicted share, DSC on patients."""

    objective: Objective
    steps: int
    patients: Cohort
    step: int = 0

    def __post_init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch, as `fit` asks for it."""
        images, reference = batch
        if self.step in CURVE:
            self.look(network)
        loss = functools.partial(self.objective, progress=self.step / max(1, self.steps - 1))
        logits = network(images)
        if self.step % SHARE_EVERY == 0:
            share = background_gradient_share(loss, logits, reference)
            self.seen.append({"step": self.step, "gradient_share": np.nan if share is None else share})
        self.step += 1
        return loss(logits, reference)

    def look(self, network: nn.Module) -> None:
        """Predicted share of the voxels in percent, and mean DSC of the patients with a tumour."""
        was = network.training
        network.eval()
        masks = [probability(network, image) > 0.5 for image in self.patients.images]
        network.train(was)
        found = [dsc(m, r == 1) for m, r in zip(masks, self.patients.references, strict=True) if (r == 1).any()]
        predicted = 100 * float(np.mean([m.float().mean() for m in masks]))
        self.seen.append({"step": self.step, "predicted_percent": predicted, "dsc": float(np.mean(found))})


def probability(model: Normalised, image: Tensor) -> Tensor:
    """Probability of the tumour, (d, h, w)."""
    with torch.no_grad():
        return forward(model, image).softmax(0)[1]


def class_weights(references: Sequence[Tensor], power: float) -> tuple[float, float] | None:
    """Background's weight 1 and the tumour's inverse frequency relative to it, to a power; None for power 0."""
    share = float(np.mean([(r == 1).float().mean() for r in references]))
    return (1.0, ((1 - share) / share) ** power) if power else None


def train(loss: Loss, source: Cohort, watched: Cohort, steps: int, seed: int) -> tuple[Normalised, pd.DataFrame]:
    """A network trained with one loss, and what was seen on the way."""
    recipe = replace(BUDGETS["quick", "2d"], patch=PATCH)
    rng = generator(seed, "weights")
    model = build(
        "unet_bn",
        dimension=2,
        channels=1,
        task=Task(2),
        normalise=Normalise("zscore"),
        patch=recipe.patch,
        rng=rng,
    )
    objective = Objective(loss.terms, class_weights(source.references, loss.balance))
    watch = Watch(objective, steps, watched)
    sampler = PatchSampler(model, source.labelled(), recipe, generator(seed, "patches"))
    fit(model, sampler, watch, steps=steps, rng=generator(seed, "fit"), learning_rate=recipe.learning_rate)
    watch.look(model)
    return model, pd.DataFrame(watch.seen)


def ece(p: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error of probabilities (n,) of outcomes (n,), equal-width bins."""
    index = np.clip(np.ceil(p * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(index, p, BINS) - np.bincount(index, y, BINS)
    return float(np.abs(gap).sum() / len(p))


def scores(model: Normalised, patients: Cohort) -> dict[str, float]:
    """The scores of the module's docstring over some patients of one domain."""
    counts, rows = np.zeros(3), []
    for image, reference in zip(patients.images, patients.references, strict=True):
        p, truth = probability(model, image).numpy(), reference.numpy() == 1
        mask = p > 0.5
        counts += (mask & truth).sum(), (mask & ~truth).sum(), (truth & ~mask).sum()
        if truth.any():
            near = edt.edt(~truth, anisotropy=patients.spacing, parallel=1) <= ROI_MM
            hd95 = hd95_mm(mask, truth, patients.spacing)
            rows.append((dsc(mask, truth), hd95, not mask.any(), ece(p[near], truth[near])))
    per_case = np.array(rows, float)
    tp, fp, fn = counts
    return {
        "dsc": per_case[:, 0].mean(),
        "hd95_mm": np.median(per_case[:, 1]),
        "missed": per_case[:, 2].mean(),
        "ece": per_case[:, 3].mean(),
        "precision": tp / (tp + fp) if tp + fp else np.nan,
        "recall": tp / (tp + fn),
    }


def run(options: argparse.Namespace) -> None:
    """Trains and scores every loss with every seed; what was seen and the scores are written after each training."""
    phantom = AbdomenPhantom(patients=options.train + options.test + CURVE_PATIENTS, shape=SHAPE, spacing_mm=SPACING_MM)
    first, last = options.train, options.train + options.test
    source = cohort(phantom, range(first))
    domains = {name: cohort(phantom, range(first, last), step) for name, step in TARGETS.items()}
    watched = cohort(phantom, range(last, last + CURVE_PATIENTS))
    percent = 100 * np.mean([(r == 1).float().mean() for r in source.references])
    print(f"{percent:.3f} % of the source's voxels are tumour; {' '.join(map(str, source.spacing))} mm", flush=True)
    curves, rows = [], []
    for seed in range(options.seeds):
        for name in options.losses:
            started = time.perf_counter()
            model, seen = train(LOSSES[name], source, watched, options.steps, seed)
            curves.append(seen.assign(loss=name, seed=seed))
            found = [{"loss": name, "seed": seed, "domain": d, **scores(model, c)} for d, c in domains.items()]
            rows += found
            own = {k: round(float(v), 3) for k, v in found[0].items() if k not in ("loss", "seed", "domain")}
            print(f"seed {seed} {name:17s} {time.perf_counter() - started:4.0f} s {own}", flush=True)
            pd.concat(curves).to_csv(options.out / STEPS, index=False, float_format="%.5g")
            pd.DataFrame(rows).to_csv(options.out / SCORES, index=False, float_format="%.5g")


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and standard deviation over seeds."""
    if not np.isfinite(values).all():
        return "inf"
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def report(curves: pd.DataFrame, found: pd.DataFrame) -> str:
    """The tables as Markdown."""
    names = list(dict.fromkeys(found.loss))
    own = found[found.domain == "source"]
    parts = [f"Mean ± standard deviation over {found.seed.nunique()} seeds.\n"]
    parts.append("## Early in training\n\n" + early(curves, names))
    parts.append("## On the source\n\n" + at_home(own, names))
    parts.append("## Differences between two losses, same weights and batches\n\n" + differences(found))
    for metric, words, digits in (
        ("dsc", "DSC", 3),
        ("hd95_mm", "Median HD95 in mm (inf: half of the tumours are missed with some seed)", 1),
        ("missed", "Share of tumours missed", 2),
        ("ece", "ECE within 10 mm of the reference", 3),
    ):
        parts.append(f"## {words}, per domain\n\n" + by_domain(found, names, metric, digits))
    return "\n".join(parts)


def early(curves: pd.DataFrame, names: Sequence[str]) -> str:
    """Predicted share and DSC at some steps, the background's share of the gradient, and when DSC first reaches 0.3."""
    at = [step for step in (60, 100, 150) if step in set(curves.step)]
    head = ["loss", *(f"voxels predicted at step {s}, %" for s in at), *(f"DSC at step {s}" for s in at)]
    head += ["gradient of the background, steps 0 to 20", "the same, last 50 steps", "first step with DSC 0.3"]
    rows = []
    for name in names:
        mine = curves[curves.loss == name]
        looked, share = mine.dropna(subset="dsc"), mine.dropna(subset="gradient_share")
        cells = [spread(looked.predicted_percent[looked.step == s], 2) for s in at]
        cells += [spread(looked.dsc[looked.step == s], 2) for s in at]
        for part in (share[share.step <= 20], share[share.step > share.step.max() - 50]):
            cells.append(spread(part.groupby("seed").gradient_share.mean(), 2))
        reached = looked[looked.dsc >= 0.3].groupby("seed").step.min().reindex(looked.seed.unique())
        cells.append(", ".join("never" if np.isnan(s) else f"{s:.0f}" for s in reached))
        rows.append([name, *cells])
    return table(head, rows)


def at_home(own: pd.DataFrame, names: Sequence[str]) -> str:
    """Every score on the source's own domain."""
    digits = {"dsc": 3, "hd95_mm": 1, "missed": 2, "precision": 3, "recall": 3, "ece": 3}
    rows = [[n, *(spread(own[own.loss == n][metric], d) for metric, d in digits.items())] for n in names]
    return table(["loss", "DSC", "median HD95, mm", "missed", "precision", "recall", "ECE"], rows)


def differences(found: pd.DataFrame) -> str:
    """What is said of two losses, as the difference of a score per seed, and how often it has that sign."""
    rows = []
    for first, second, metric, sign, digits in CLAIMS:
        wide = found.pivot(index=["domain", "seed"], columns="loss", values=metric)
        if not {first, second} <= set(wide):
            continue
        gap = (wide[first] - wide[second]).replace([np.inf, -np.inf], np.nan).dropna()
        own = gap.xs("source")
        away = gap.drop("source")
        words = f"{metric} of {first} {'above' if sign > 0 else 'below'} that of {second}"
        counts = [f"{int((sign * part > 0).sum())} of {len(part)}" for part in (own, away)]
        rows.append([words, ", ".join(f"{value:+.{digits}f}" for value in own), *counts])
    return table(["said", "difference on the source, per seed", "seen on the source", "seen under shift"], rows)


def by_domain(found: pd.DataFrame, names: Sequence[str], metric: str, digits: int) -> str:
    domains = list(dict.fromkeys(found.domain))
    rows = [
        [n, *(spread(found[(found.loss == n) & (found.domain == d)][metric], digits) for d in domains)] for n in names
    ]
    return table(["loss", *domains], rows)


def colours(names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {name: plt.get_cmap("tab10")(i % 10) for i, name in enumerate(names)}


def draw_early(curves: pd.DataFrame, path: Path) -> None:
    """Predicted share, DSC and the background's share of the gradient along the steps; the seeds' mean and range."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), constrained_layout=True)
    what = {"predicted_percent": "voxels predicted, %", "dsc": "DSC", "gradient_share": "background's share of |dL/dz|"}
    for axis, (column, words) in zip(axes, what.items(), strict=True):
        for name, colour in colours(list(dict.fromkeys(curves.loss))).items():
            seen = curves[curves.loss == name].dropna(subset=column).groupby("step")[column]
            several = 5 if column == "gradient_share" else 1  # measurements: a batch is noisy
            mean, low, high = (
                part.rolling(several, center=True, min_periods=1).mean()
                for part in (seen.mean(), seen.min(), seen.max())
            )
            axis.plot(mean, color=colour, label=name, lw=1.5)
            axis.fill_between(mean.index, low, high, color=colour, alpha=0.1, lw=0)
        axis.set(xlabel="step", ylabel=words)
    axes[0].set_yscale("symlog", linthresh=0.01)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_trade(found: pd.DataFrame, path: Path) -> None:
    """Precision and recall over beta, on the source and under the strongest shifts; the seeds' mean and range."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), constrained_layout=True, sharex=True)
    betas = {name: beta for name, beta in BETAS.items() if name in set(found.loss)}
    domains = [d for d in dict.fromkeys(found.domain) if d in ("source", "SNR 10", "bias 60 %", "flip 35 %")]
    for axis, metric in zip(axes, ("precision", "recall"), strict=True):
        for domain, colour in colours(domains).items():
            mine = found[(found.domain == domain) & found.loss.isin(betas)]
            seen = mine.assign(beta=mine.loss.map(betas)).groupby("beta")[metric]
            axis.plot(seen.mean(), "o-", color=colour, label=domain)
            axis.fill_between(seen.mean().index, seen.min(), seen.max(), color=colour, alpha=0.12, lw=0)
        axis.set(xlabel="Tversky beta (alpha = 1 - beta)", ylabel=metric)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_shift(found: pd.DataFrame, path: Path) -> None:
    """DSC, HD95 and ECE per domain and loss: a point per loss, a bar over its seeds."""
    domains, names = list(dict.fromkeys(found.domain)), list(dict.fromkeys(found.loss))
    figure, axes = plt.subplots(3, 1, figsize=(11, 9), constrained_layout=True, sharex=True)
    for axis, (metric, words) in zip(
        axes, {"dsc": "DSC", "hd95_mm": "median HD95, mm", "ece": "ECE"}.items(), strict=True
    ):
        for i, (name, colour) in enumerate(colours(names).items()):
            seen = found[(found.loss == name) & np.isfinite(found[metric])].groupby("domain")[metric]
            mean, low, high = (getattr(seen, f)().reindex(domains) for f in ("mean", "min", "max"))
            x = np.arange(len(domains)) + (i - (len(names) - 1) / 2) * 0.07
            axis.errorbar(x, mean, (mean - low, high - mean), fmt="o", ms=4, lw=1, color=colour, label=name)
        axis.set(ylabel=words, xticks=range(len(domains)), xticklabels=domains)
    for axis in axes:
        axis.vlines(np.arange(len(domains) - 1) + 0.5, *axis.get_ylim(), color="0.85", lw=1, zorder=0)
    axes[0].legend(fontsize=8, ncols=5)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=BUDGETS["quick", "2d"].steps)
    parser.add_argument("--train", type=int, default=50, help="patients")
    parser.add_argument("--test", type=int, default=16, help="patients")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--redraw", action="store_true", help="read the numbers of an earlier run")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        run(options)
    curves, found = pd.read_csv(options.out / STEPS), pd.read_csv(options.out / SCORES)
    text = report(curves, found)
    command = " ".join(["python benchmarks/losses.py", *(a for a in sys.argv[1:] if a != "--redraw")])
    (options.out / "losses.md").write_text(f"{command}\n\n{text}")
    print(text)
    draw_early(curves, options.out / "losses_early.png")
    draw_trade(found, options.out / "losses_trade.png")
    draw_shift(found, options.out / "losses_shift.png")


if __name__ == "__main__":
    main()
