"""How hard a phantom is: DSC per structure in its own domain and under single shifts, and what its protocols cost.

A source-only U-Net is trained on the phantom's source domain and scored on its test patients, patient by patient over
the whole stack. A logistic regression on intensity and position shows how much needs no network. For every
sub-structure that a protocol includes or excludes: the DSC between the two protocols, the network's score under each,
and the share of the sub-structure that it calls part of the organ. The loop is written out here, so that a phantom can
be measured without the rest of the suite; the phantoms' tables are in `phantom_tasks.py`.

    python benchmarks/phantom_difficulty.py --phantom abdomen                 # quick budget, with the shifts
    python benchmarks/phantom_difficulty.py --phantom heart --steps 3000      # the plateau
    python benchmarks/phantom_difficulty.py --phantom brain --dimension 3d
    python benchmarks/phantom_difficulty.py --table benchmarks/results/*_difficulty_*.txt    # of what they printed
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import UNet
from phantom_tasks import TASKS, Domain, Task
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor

from shiftbench.data.phantoms.cohort import Cohort
from shiftbench.data.phantoms.tissues import tissue_maps
from shiftbench.rng import generator
from shiftbench.shifts.mr import needed_maps, transverse
from shiftbench.types import Anatomy

STEPS, BATCH = {"2d": 300, "3d": 700}, {"2d": 12, "3d": 4}  # the quick budget


@dataclass(frozen=True)
class Study:
    """A phantom of some size with what is segmented on it."""

    task: Task
    phantom: Cohort
    structures: tuple[str, ...]
    dimension: str


def image(study: Study, anatomy: Anatomy, domain: Domain, seed: int) -> np.ndarray:
    """Magnitude image (d, h, w) of a patient: signal, partial volume, slice profile, bias, Rician noise, gamma."""
    phantom = study.phantom
    maps = tissue_maps(anatomy, domain.field_t, properties=needed_maps(domain.sequence))
    acquisition = {**domain.sequence, "field_t": domain.field_t}
    fine = transverse({name: torch.as_tensor(values) for name, values in maps.items()}, acquisition)
    (d, h, w), (fz, fy, fx) = phantom.shape, phantom.supersampling
    picture = fine.reshape(d, fz, h, fy, w, fx).mean(dim=(1, 3, 5)).abs().numpy()
    if domain.slice_mm:
        picture = gaussian_filter1d(picture, domain.slice_mm / 2.355 / phantom.spacing_mm[0], axis=0)
    rng = generator(seed, "difficulty", anatomy.case_id)
    body = anatomy.fine > 0
    reference = np.median(picture[anatomy.fine == phantom.fine_labels.index(phantom.reference_label)])
    picture = picture * np.exp(_bias(picture.shape, body, domain.bias, rng))
    sigma = reference / domain.snr
    real, imaginary = rng.standard_normal((2, *picture.shape), dtype=np.float32) * np.float32(sigma)
    picture = np.sqrt((picture + real) ** 2 + imaginary**2).astype(np.float32)
    top = np.percentile(picture, 99.5)
    return np.float32(top) * np.clip(picture / top, 0, 1) ** np.float32(domain.gamma) if domain.gamma != 1 else picture


def _bias(shape: tuple[int, ...], body: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    c = rng.standard_normal(7)
    log = c[0] * z + c[1] * y + c[2] * x + c[3] * x * y + c[4] * x**2 + c[5] * y**2 + c[6] * y * z
    inside = log[body]
    return ((log - inside.mean()) * amount / np.ptp(np.percentile(inside, (1, 99)))).astype(np.float32)


def reference_of(study: Study, anatomy: Anatomy, domain: Domain) -> np.ndarray:
    """Reference (d, h, w): 0 background, then the study's structures in order, a later one over an earlier one."""
    phantom, fine = study.phantom, anatomy.fine
    labels = np.zeros(fine.shape, np.uint8)
    for number, structure in enumerate(study.structures, start=1):
        members = set(phantom.members[structure])
        members |= {f for f in domain.include if phantom.optional_members[f][0] == structure}
        members |= {
            f for f, (rule, of) in phantom.alternative_members.items() if of[choice(domain, rule, of)] == structure
        }
        labels[np.isin(fine, [phantom.fine_labels.index(m) for m in members])] = number
    return with_margin(study, labels, domain.margin_mm) if domain.margin_mm else labels


def choice(domain: Domain, rule: str, structure_of: Mapping[str, str]) -> str:
    """To which of several structures the domain gives a sub-structure; by default the first."""
    return domain.alternatives.get(rule, next(iter(structure_of)))


def with_margin(study: Study, labels: np.ndarray, margin_mm: float) -> np.ndarray:
    """The reference (d, h, w) with the contour of the task's `margin_of` (and of what is part of it) moved."""
    members, whole = study.phantom.members, study.task.margin_of
    parts = [s for s in study.structures if set(members[s]) <= set(members[whole])]
    organ = np.isin(labels, [study.structures.index(s) + 1 for s in parts])
    distance = distance_transform_edt(organ if margin_mm < 0 else ~organ, sampling=study.phantom.spacing_mm)
    if margin_mm < 0:
        return np.where(organ & (distance <= -margin_mm), 0, labels).astype(np.uint8)
    grown = (labels == 0) & (distance <= margin_mm)
    return np.where(grown, study.structures.index(whole) + 1, labels).astype(np.uint8)


def normalised(picture: np.ndarray) -> np.ndarray:
    """Percentile clip and z-score over the case."""
    picture = np.clip(picture, *np.percentile(picture, (0.5, 99.5)))
    return ((picture - picture.mean()) / picture.std()).astype(np.float32)


def materialise(study: Study, ids: range, domain: Domain) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Normalised images and references of the patients `ids`."""
    images, references = [], []
    for i in ids:
        anatomy = study.phantom.anatomy(f"p{i:04d}", domain.population)
        images.append(normalised(image(study, anatomy, domain, seed=0)))
        references.append(reference_of(study, anatomy, domain))
    return images, references


def network(study: Study) -> UNet:
    """The U-Net of the quick budget."""
    model = UNet(
        spatial_dims=int(study.dimension[0]),
        in_channels=1,
        out_channels=len(study.structures) + 1,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=0,
        norm="batch",
    )
    return model.to(memory_format=torch.channels_last) if study.dimension == "2d" else model  # a third faster


def train(study: Study, images: list[np.ndarray], references: list[np.ndarray], steps: int, seed: int) -> UNet:
    """AdamW with a one-cycle schedule, Dice and weighted cross-entropy, half of each batch with the rare structure."""
    torch.manual_seed(seed)
    rng = generator(seed, "difficulty", "batches")
    if study.dimension == "2d":
        x = torch.from_numpy(np.concatenate(images))[:, None]
        y = torch.from_numpy(np.concatenate(references)).long()
    else:
        x, y = torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(references)).long()
    rare = study.structures.index(study.task.oversampled) + 1
    shown = torch.where((y == rare).flatten(1).any(1))[0].numpy()
    weights = torch.tensor([1.0, *(study.task.weights.get(s, 1.0) for s in study.structures)])
    batch, model = BATCH[study.dimension], network(study).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(shown, batch // 2), rng.integers(len(x), size=batch - batch // 2)])
        xb, yb = augmented(x[chosen], y[chosen], rng)
        loss = dice_and_cross_entropy(model(xb), yb, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def augmented(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rotation of 10 degrees, scale of 12 % and translation of 6 % at most, in the axial plane."""
    n, (h, w) = len(x), x.shape[-2:]
    angle, scale = np.radians(rng.uniform(-10, 10, n)), np.exp(rng.uniform(-0.12, 0.12, n))
    theta = np.zeros((n, 2, 3), np.float32)  # rows in (x, y) order
    theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle) * scale
    theta[:, 0, 1], theta[:, 1, 0] = -np.sin(angle) * scale, np.sin(angle) * scale
    theta[:, :, -1] = rng.uniform(-0.12, 0.12, (n, 2))
    grid = F.affine_grid(torch.from_numpy(theta), [n, 1, h, w], align_corners=False)
    planes, drawn = x.view(n, -1, h, w), y.view(n, -1, h, w).float()  # slices as channels
    images = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    labels = F.grid_sample(drawn, grid, mode="nearest", align_corners=False)
    return images.view(x.shape), labels.view(y.shape).long()


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice of the structures over the batch, and cross-entropy with a weight per class."""
    target = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    p = logits.softmax(1)
    axes = (0, *range(2, logits.ndim))
    dice = (2 * (p * target).sum(axes) + 1) / (p.sum(axes) + target.sum(axes) + 1)
    return 1 - dice[1:].mean() + F.cross_entropy(logits, labels, weights)


@torch.no_grad()
def predicted(model: UNet, picture: np.ndarray, dimension: str) -> np.ndarray:
    """Labels (d, h, w) of one case."""
    x = torch.from_numpy(picture)
    return model(x[:, None]).argmax(1).numpy() if dimension == "2d" else model(x[None, None]).argmax(1)[0].numpy()


def scores(predictions: list[np.ndarray], references: list[np.ndarray], classes: int) -> np.ndarray:
    """DSC (patients, structures); NaN where the reference has none."""
    table = np.full((len(references), classes), np.nan)
    for i, (p, r) in enumerate(zip(predictions, references, strict=True)):
        for j in range(classes):
            a, b = p == j + 1, r == j + 1
            if b.any():
                table[i, j] = 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
    return table


def position_features(picture: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Intensity and position inside the body's bounding box, (voxels in the body, 4)."""
    where = np.argwhere(body)
    low, high = where.min(0), where.max(0)
    return np.column_stack([picture[body], (where - low) / np.maximum(high - low, 1)])


def logistic_regression(study: Study, training: range, test: range) -> np.ndarray:
    """DSC (patients, structures) of a quadratic logistic regression on intensity and position."""
    rng = generator(0, "difficulty", "logistic regression")
    polynomial, scaler, data = PolynomialFeatures(2, include_bias=False), StandardScaler(), []
    for i in [*training, *test]:
        anatomy = study.phantom.anatomy(f"p{i:04d}", study.task.source.population)
        body = anatomy.fine > 0
        features = position_features(normalised(image(study, anatomy, study.task.source, seed=0)), body)
        data.append((polynomial.fit_transform(features), reference_of(study, anatomy, study.task.source), body))
    x = np.concatenate([features for features, _, _ in data[: len(training)]])
    y = np.concatenate([labels[body] for _, labels, body in data[: len(training)]])
    some = rng.choice(len(x), min(len(x), 100_000), replace=False)
    model = LogisticRegression(max_iter=150).fit(scaler.fit_transform(x[some]), y[some])
    predictions, references = [], []
    for features, labels, body in data[len(training) :]:
        prediction = np.zeros_like(labels)
        prediction[body] = model.predict(scaler.transform(features))
        predictions.append(prediction)
        references.append(labels)
    return scores(predictions, references, len(study.structures))


def sub_structures(study: Study, model: UNet, test: range) -> list[str]:
    """A row per protocol rule and structure it changes: agreement of the protocols, score under each, share called."""
    source, phantom = study.task.source, study.phantom
    anatomies = [phantom.anatomy(f"p{i:04d}", source.population) for i in test]
    pictures = (normalised(image(study, a, source, seed=0)) for a in anatomies)
    predictions = [predicted(model, p, study.dimension) for p in pictures]
    drawn = [reference_of(study, a, source) for a in anatomies]
    k, rows = len(study.structures), []
    for rule, structure, state, labels, domain in _other_protocols(study):
        other = [reference_of(study, a, domain) for a in anatomies]
        agreement, own, under = (
            np.nanmean(scores(p, r, k), axis=0) for p, r in ((drawn, other), (predictions, drawn), (predictions, other))
        )
        inside = [np.isin(a.fine, [phantom.fine_labels.index(name) for name in labels]) for a in anatomies]
        called = np.concatenate([p[m] for p, m in zip(predictions, inside, strict=True)])
        share = np.mean(called == study.structures.index(structure) + 1) if called.size else np.nan
        for j in np.flatnonzero(agreement < 1 - 1e-9):
            name = study.structures[j]
            cells = (agreement[j], own[j], under[j], 100 * (own[j] - under[j]), share)
            rows.append(
                f"{rule:16s}{structure:14s}{state:>11s}  {name:14s}"
                + "".join(f"{cell:10.1f}" if i == 3 else f"{cell:10.3f}" for i, cell in enumerate(cells))
            )
    return rows


def _other_protocols(study: Study) -> list[tuple[str, str, str, list[str], Domain]]:
    """(rule, structure, how the source draws it, fine labels, the source with the rule changed), rule by rule."""
    source, phantom = study.task.source, study.phantom
    rules: dict[tuple[str, str], list[str]] = {}
    for label, key in phantom.optional_members.items():
        if key[0] in study.structures:
            rules.setdefault(key, []).append(label)
    found = []
    for (structure, rule), labels in rules.items():
        now = set(labels) <= set(source.include)
        include = set(source.include) - set(labels) if now else set(source.include) | set(labels)
        domain = replace(source, include=tuple(sorted(include)))
        found.append((rule, structure, "in" if now else "out", labels, domain))
    for rule, of in dict(phantom.alternative_members.values()).items():
        labels = [label for label, (name, _) in phantom.alternative_members.items() if name == rule]
        now = choice(source, rule, of)
        for name in set(of) - {now}:
            found.append((rule, of[now], now, labels, replace(source, alternatives={rule: name})))
    return found


def line(study: Study, name: str, table: np.ndarray, base: np.ndarray | None, seconds: float) -> str:
    """One row of the report: DSC per structure, their mean, the drop in points, share of the rare structure missed."""
    means = np.nanmean(table, axis=0)
    drop = "" if base is None else f"{100 * (means.mean() - np.nanmean(base, axis=0).mean()):+7.1f}"
    rare = table[:, study.structures.index(study.task.oversampled)]
    missed = np.mean(rare[~np.isnan(rare)] < 0.05)
    return (
        f"{name:18s}"
        + "".join(f"{m:13.3f}" for m in means)
        + f"{means.mean():8.3f}{drop:>8s}{missed:8.2f}{seconds:7.1f}s"
    )


@dataclass(frozen=True)
class Printed:
    """One run as it was printed: its command, what it ran on, mean DSC per row and structure, its protocol rules."""

    command: str
    phantom: str
    dimension: str
    steps: int
    rows: Mapping[str, Mapping[str, float]]
    rules: Sequence[Sequence[str]]  # rule, structure, how the source draws it, what changes, then figures

    @classmethod
    def read(cls, path: Path) -> Printed:
        """The run in a text file."""
        command, header, names, *lines = path.read_text(encoding="utf-8").rstrip().splitlines()
        phantom, dimension, steps = header.replace(",", "").split()[:3]
        columns = names.split()[: names.split().index("mean") + 1]
        end = next((i for i, text in enumerate(lines) if text.startswith("rule ")), len(lines))
        rows = {
            text[:18].strip(): dict(zip(columns, map(float, text[18:].split()[: len(columns)]), strict=True))
            for text in lines[:end]
            if text.strip() and not text.startswith("phantom ")
        }
        return cls(command, phantom, dimension, int(steps), rows, [text.split() for text in lines[end + 1 :]])


def markdown(runs: Sequence[Printed]) -> str:
    """A row per anatomy and dimension; the longest run of each beside the quick one is its plateau."""
    found = [
        "| anatomy | quick budget: DSC per structure | plateau | logistic regression, mean "
        "| protocols: agreement, cost in points, share called | command |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key in dict.fromkeys((run.phantom, run.dimension) for run in runs):
        quick, *longer = sorted((r for r in runs if (r.phantom, r.dimension) == key), key=lambda run: run.steps)
        cells = [
            f"{key[0]} {key[1]}",
            f"{quick.steps} steps<br>" + _per_structure(quick),
            f"{longer[-1].steps} steps<br>" + _per_structure(longer[-1]) if longer else "not run",
            f"{quick.rows['logistic regr.']['mean']:.3f}",
            "<br>".join(
                f"{r} ({state}), {of}: {a}, {cost}, {share}" for r, _, state, of, a, _, _, cost, share in quick.rules
            ),
            "<br>".join(f"`{run.command}`" for run in (quick, *longer[-1:])),
        ]
        found.append("| " + " | ".join(cells) + " |")
    return "\n".join(found) + "\n"


def _per_structure(run: Printed) -> str:
    return "<br>".join(f"{name} {value:.3f}" for name, value in run.rows["source"].items())


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", choices=sorted(TASKS), default="abdomen")
    parser.add_argument("--dimension", choices=("2d", "3d"), default="2d")
    parser.add_argument("--structures", nargs="+", metavar="NAME", help="others than the table's, in painting order")
    parser.add_argument("--steps", type=int, help="gradient steps (300 in 2-D and 700 in 3-D by default)")
    parser.add_argument("--train", type=int, default=50, help="training patients")
    parser.add_argument("--test", type=int, default=30, help="test patients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shifts", nargs="*", metavar="NAME", help="only these shifts (none: own domain only)")
    parser.add_argument("--no-logistic", action="store_true")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="only print a table of printed runs")
    return parser.parse_args()


def study_of(options: argparse.Namespace) -> Study:
    """The phantom of the command line with its task."""
    task = TASKS[options.phantom]
    module, name = task.cohort.split(":")
    shape, spacing, supersampling = task.grids[options.dimension]
    phantom = getattr(import_module(module), name)(
        patients=options.train + options.test, shape=shape, spacing_mm=spacing, supersampling=supersampling
    )
    return Study(task, phantom, tuple(options.structures or task.weights), options.dimension)


def chosen(task: Task, names: Sequence[str] | None) -> Mapping[str, Domain]:
    """The source and the shifts that are asked for (all of them by default)."""
    unknown = set(names or ()) - set(task.shifts)
    if unknown:
        raise SystemExit(f"unknown shift {', '.join(sorted(unknown))}; there are {', '.join(task.shifts)}")
    return {"source": task.source, **{n: d for n, d in task.shifts.items() if names is None or n in names}}


def main() -> None:
    options = parsed()
    if options.table:
        print(markdown([Printed.read(path) for path in options.table]), end="")
        return
    steps = options.steps or STEPS[options.dimension]
    torch.set_num_threads(1)
    study = study_of(options)
    training, test = range(options.train), range(options.train, options.train + options.test)
    columns = "".join(f"{s:>13s}" for s in study.structures) + f"{'mean':>8s}{'drop':>8s}{'missed':>8s}{'time':>8s}"
    print("python", "benchmarks/phantom_difficulty.py", *sys.argv[1:])
    print(f"{options.phantom} {options.dimension}, {steps} steps, {options.train} training patients")
    print(f"{'':18s}{columns}")
    start = time.perf_counter()
    images, references = materialise(study, training, study.task.source)
    rendered = time.perf_counter()
    model = train(study, images, references, steps, options.seed)
    print(f"phantom {rendered - start:.1f}s, training {time.perf_counter() - rendered:.1f}s", flush=True)
    del images, references
    base = None
    for name, domain in chosen(study.task, options.shifts).items():
        start = time.perf_counter()
        images, references = materialise(study, test, domain)
        table = scores([predicted(model, x, study.dimension) for x in images], references, len(study.structures))
        print(line(study, name, table, base, time.perf_counter() - start), flush=True)
        base = table if base is None else base
    if not options.no_logistic:
        start = time.perf_counter()
        print(
            line(study, "logistic regr.", logistic_regression(study, training, test), None, time.perf_counter() - start)
        )
    print(
        "\nrule            of                  drawn  changes        agreement    source     other  cost/pt    called"
    )
    print("\n".join(sub_structures(study, model, test)))


if __name__ == "__main__":
    main()
