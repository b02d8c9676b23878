"""How hard the abdominal phantom is: DSC per structure in its own domain and under single shifts.

A source-only U-Net is trained on the phantom's source domain and scored on its test patients, patient by patient over
the whole stack. A logistic regression on intensity and position shows how much needs no network. The loop is written
out here, so that the phantom can be measured without the rest of the suite.

    python benchmarks/phantom_difficulty.py                     # quick budget, with the shifts
    python benchmarks/phantom_difficulty.py --steps 3000        # the plateau
    python benchmarks/phantom_difficulty.py --dimension 3d
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import UNet
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor

from shiftbench.data.phantoms import AbdomenPhantom, tissue_maps
from shiftbench.rng import generator
from shiftbench.shifts.mr import signal
from shiftbench.types import Anatomy

STRUCTURES = ("liver", "tumour", "spleen", "kidney")
CLASS_WEIGHTS = (1.0, 1.0, 3.0, 2.0, 2.0)
SPGR = {"sequence": "spgr", "tr_ms": 100.0, "te_ms": 4.0, "flip_deg": 80.0}
GRIDS = {"2d": ((20, 128, 128), (4.0, 3.125, 3.125), (1, 2, 2)), "3d": ((32, 80, 80), (4.0, 4.5, 4.5), (1, 2, 2))}


@dataclass(frozen=True)
class Domain:
    """One choice of acquisition, protocol and population, as far as this script needs it."""

    sequence: Mapping[str, float | str] = field(default_factory=lambda: dict(SPGR))
    field_t: float = 1.5
    snr: float = 35.0
    bias: float = 0.15  # peak to peak inside the body
    gamma: float = 1.0
    slice_mm: float = 0.0  # FWHM of a Gaussian slice profile on top of the voxel
    include: tuple[str, ...] = ("portal_vessel", "hepatic_vessel")  # fine labels that are drawn as liver
    margin_mm: float = 0.0
    population: Mapping[str, float] = field(default_factory=dict)


def shifted_domains() -> dict[str, Domain]:
    """The source and its single shifts."""
    domains = {"source": Domain()}
    domains |= {f"flip angle {a}": Domain(sequence={**SPGR, "flip_deg": float(a)}) for a in (60, 40, 30, 20)}
    domains |= {f"SNR {s}": Domain(snr=float(s)) for s in (15, 10, 6)}
    domains |= {f"gamma {g}": Domain(gamma=g) for g in (0.45, 0.7, 1.5, 2.2)}
    domains |= {f"slice {s} mm": Domain(slice_mm=float(s)) for s in (8, 16)}
    domains |= {f"bias {b} %": Domain(bias=b / 100) for b in (40, 80, 120)}
    domains["3 T"] = Domain(field_t=3.0)
    domains["hilum in"] = Domain(include=("hilum", "portal_vessel", "hepatic_vessel"))
    domains["vessels out"] = Domain(include=())
    domains |= {f"margin {m:+d} mm": Domain(margin_mm=float(m)) for m in (-5, 5, 8)}
    domains |= {f"lesion load x{v}": Domain(population={"lesion_load": v}) for v in (0.25, 4.0)}
    domains |= {f"habitus +{v} mm": Domain(population={"habitus_mm": float(v)}) for v in (10, 20, 30)}
    return domains


def image(phantom: AbdomenPhantom, anatomy: Anatomy, domain: Domain, seed: int) -> np.ndarray:
    """Magnitude image (d, h, w) of a patient: signal, partial volume, slice profile, bias, Rician noise, gamma."""
    maps = tissue_maps(anatomy, domain.field_t, properties=("T1_ms", "T2star_ms", "PD"))
    fine = signal(maps, domain.sequence)
    (d, h, w), (fz, fy, fx) = phantom.shape, phantom.supersampling
    picture = fine.reshape(d, fz, h, fy, w, fx).mean(axis=(1, 3, 5))
    if domain.slice_mm:
        picture = gaussian_filter1d(picture, domain.slice_mm / 2.355 / phantom.spacing_mm[0], axis=0)
    rng = generator(seed, "difficulty", anatomy.case_id)
    body = anatomy.fine > 0
    reference = np.median(picture[anatomy.fine == phantom.fine_labels.index("liver")])
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


def reference_of(phantom: AbdomenPhantom, anatomy: Anatomy, domain: Domain) -> np.ndarray:
    """Reference (d, h, w): 0 background, then `STRUCTURES` in order."""
    fine, names = anatomy.fine, phantom.fine_labels
    labels = np.zeros(fine.shape, np.uint8)
    for number, structure in enumerate(STRUCTURES, start=1):
        members = set(phantom.members[structure])
        members |= {f for f in domain.include if phantom.optional_members[f][0] == structure}
        labels[np.isin(fine, [names.index(m) for m in members])] = number
    if domain.margin_mm:
        organ = np.isin(labels, (1, 2))
        inward = domain.margin_mm < 0
        distance = distance_transform_edt(organ if inward else ~organ, sampling=phantom.spacing_mm)
        if inward:
            labels[organ & (distance <= -domain.margin_mm)] = 0
        else:
            labels[(labels == 0) & (distance <= domain.margin_mm)] = 1
    return labels


def normalised(picture: np.ndarray) -> np.ndarray:
    """Percentile clip and z-score over the case."""
    picture = np.clip(picture, *np.percentile(picture, (0.5, 99.5)))
    return ((picture - picture.mean()) / picture.std()).astype(np.float32)


def materialise(phantom: AbdomenPhantom, ids: range, domain: Domain) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Normalised images and references of the patients `ids`."""
    images, references = [], []
    for i in ids:
        anatomy = phantom.anatomy(f"p{i:04d}", domain.population)
        images.append(normalised(image(phantom, anatomy, domain, seed=0)))
        references.append(reference_of(phantom, anatomy, domain))
    return images, references


def network(dimension: str) -> UNet:
    """The U-Net of the quick budget."""
    return UNet(
        spatial_dims=int(dimension[0]),
        in_channels=1,
        out_channels=len(STRUCTURES) + 1,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=0,
        norm="batch",
    )


def train(images: list[np.ndarray], references: list[np.ndarray], steps: int, dimension: str, seed: int) -> UNet:
    """AdamW with a one-cycle schedule, Dice and weighted cross-entropy, half of each batch with tumour."""
    torch.manual_seed(seed)
    rng = generator(seed, "difficulty", "batches")
    if dimension == "2d":
        x = torch.from_numpy(np.concatenate(images))[:, None]
        y = torch.from_numpy(np.concatenate(references)).long()
    else:
        x, y = torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(references)).long()
    with_tumour = torch.where((y == 2).flatten(1).any(1))[0].numpy()
    batch = 16 if dimension == "2d" else 4
    model = network(dimension).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(with_tumour, batch // 2), rng.integers(len(x), size=batch - batch // 2)])
        xb, yb = augmented(x[chosen], y[chosen], rng)
        loss = dice_and_cross_entropy(model(xb), yb)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def augmented(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rotation of 10 degrees, scale of 12 % and translation of 6 % at most, in the axial plane."""
    n, dims = len(x), x.ndim - 2
    angle, scale = np.radians(rng.uniform(-10, 10, n)), np.exp(rng.uniform(-0.12, 0.12, n))
    theta = np.zeros((n, dims, dims + 1), np.float32)  # rows in (x, y[, z]) order
    theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle) * scale
    theta[:, 0, 1], theta[:, 1, 0] = -np.sin(angle) * scale, np.sin(angle) * scale
    theta[:, :2, -1] = rng.uniform(-0.12, 0.12, (n, 2))
    if dims == 3:
        theta[:, 2, 2] = 1
    grid = F.affine_grid(torch.from_numpy(theta), list(x.shape), align_corners=False)
    labels = F.grid_sample(y[:, None].float(), grid, mode="nearest", align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False), labels[:, 0].long()


def dice_and_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice of the structures over the batch, and cross-entropy with `CLASS_WEIGHTS`."""
    target = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    p = logits.softmax(1)
    axes = (0, *range(2, logits.ndim))
    dice = (2 * (p * target).sum(axes) + 1) / (p.sum(axes) + target.sum(axes) + 1)
    weights = torch.tensor(CLASS_WEIGHTS)
    return 1 - dice[1:].mean() + F.cross_entropy(logits, labels, weights)


@torch.no_grad()
def predicted(model: UNet, picture: np.ndarray, dimension: str) -> np.ndarray:
    """Labels (d, h, w) of one case."""
    x = torch.from_numpy(picture)
    return model(x[:, None]).argmax(1).numpy() if dimension == "2d" else model(x[None, None]).argmax(1)[0].numpy()


def scores(predictions: list[np.ndarray], references: list[np.ndarray]) -> np.ndarray:
    """DSC (patients, structures); NaN where the reference has none."""
    table = np.full((len(references), len(STRUCTURES)), np.nan)
    for i, (p, r) in enumerate(zip(predictions, references, strict=True)):
        for j in range(len(STRUCTURES)):
            a, b = p == j + 1, r == j + 1
            if b.any():
                table[i, j] = 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
    return table


def position_features(picture: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Intensity and position inside the body's bounding box, (voxels in the body, 4)."""
    where = np.argwhere(body)
    low, high = where.min(0), where.max(0)
    return np.column_stack([picture[body], (where - low) / np.maximum(high - low, 1)])


def logistic_regression(phantom: AbdomenPhantom, training: range, test: range) -> np.ndarray:
    """DSC (patients, structures) of a quadratic logistic regression on intensity and position."""
    rng = generator(0, "difficulty", "logistic regression")
    polynomial, scaler, data = PolynomialFeatures(2, include_bias=False), StandardScaler(), []
    for i in [*training, *test]:
        anatomy = phantom.anatomy(f"p{i:04d}", {})
        body = anatomy.fine > 0
        features = position_features(normalised(image(phantom, anatomy, Domain(), seed=0)), body)
        data.append((polynomial.fit_transform(features), reference_of(phantom, anatomy, Domain()), body))
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
    return scores(predictions, references)


def line(name: str, table: np.ndarray, base: np.ndarray | None, seconds: float) -> str:
    """One row of the report: DSC per structure, their mean, the drop in points, tumours missed."""
    means = np.nanmean(table, axis=0)
    drop = "" if base is None else f"{100 * (means.mean() - np.nanmean(base, axis=0).mean()):+7.1f}"
    missed = np.mean(table[~np.isnan(table[:, 1]), 1] < 0.05)
    return (
        f"{name:18s}"
        + "".join(f"{m:8.3f}" for m in means)
        + f"{means.mean():8.3f}{drop:>8s}{missed:8.2f}{seconds:7.1f}s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", choices=sorted(GRIDS), default="2d")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--train", type=int, default=50, help="training patients")
    parser.add_argument("--test", type=int, default=30, help="test patients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shifts", nargs="*", metavar="NAME", help="only these shifts (none: own domain only)")
    parser.add_argument("--no-logistic", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape, spacing, supersampling = GRIDS[options.dimension]
    phantom = AbdomenPhantom(
        patients=options.train + options.test, shape=shape, spacing_mm=spacing, supersampling=supersampling
    )
    training, test = range(options.train), range(options.train, options.train + options.test)
    print(f"{'':18s}" + "".join(f"{s:>8s}" for s in (*STRUCTURES, "mean", "drop", "missed", "time")))
    start = time.perf_counter()
    images, references = materialise(phantom, training, Domain())
    rendered = time.perf_counter()
    model = train(images, references, options.steps, options.dimension, options.seed)
    print(f"phantom {rendered - start:.1f}s, training {time.perf_counter() - rendered:.1f}s", flush=True)
    del images, references
    base = None
    for name, domain in shifted_domains().items():
        if name != "source" and options.shifts is not None and name not in options.shifts:
            continue
        start = time.perf_counter()
        images, references = materialise(phantom, test, domain)
        table = scores([predicted(model, x, options.dimension) for x in images], references)
        print(line(name, table, base, time.perf_counter() - start), flush=True)
        base = table if base is None else base
    if not options.no_logistic:
        start = time.perf_counter()
        table = logistic_regression(phantom, training, test)
        print(line("logistic regr.", table, None, time.perf_counter() - start))


if __name__ == "__main__":
    main()
