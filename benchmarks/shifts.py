"""Time and peak memory of every acquisition operator beside its TorchIO and MONAI counterpart, in one run.

A 128^3 volume, and a batch of 16 slices of 256^2 (as 16 channels, which all three libraries transform in one call).
Calls of the libraries alternate, so that a busy machine slows all of them alike; the median of the repetitions counts.
Memory is what a call needs on top of what was there. Counterparts do something alike, not the same: what is wrong with
them is tested in `tests/`.

    python benchmarks/shifts.py --threads 2                  # prints the table as Markdown
    python benchmarks/shifts.py --device cuda
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchio as tio
from monai import transforms as mt
from torch import Tensor

from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.materialise import maps_of
from shiftbench.shifts import OPERATORS, value_at
from shiftbench.shifts.acquisition import acquire
from shiftbench.shifts.operator import Operator
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.shifts.steps import check_defined, shifted

LEVEL = 3
KEY = (0, "benchmark", "case")
VOLUME, BATCH = (1, 128, 128, 128), (16, 256, 256)
CHAIN = ("slice_thickness", "rigid_motion", "in_plane_resolution", "ghosting", "spike", "rician_noise")

Call = Callable[[Tensor], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def torchio_counterparts() -> dict[str, tio.Transform]:
    """Operator -> TorchIO's transform; seeds are drawn at each call, as users do."""
    return {
        "rician_noise": tio.RandomNoise(std=(20, 20)),
        "bias_field": tio.RandomBiasField(coefficients=(0.5, 0.5)),
        "slice_thickness": tio.RandomAnisotropy(axes=(2,), downsampling=(4, 4)),
        "ct_slice_thickness": tio.RandomAnisotropy(axes=(2,), downsampling=(4, 4)),
        "gamma": tio.RandomGamma(log_gamma=(0.4, 0.4)),
        "gamma_bright": tio.RandomGamma(log_gamma=(-0.4, -0.4)),
        "rigid_motion": tio.RandomMotion(degrees=2, translation=2, num_transforms=8),
        "ghosting": tio.RandomGhosting(num_ghosts=(3, 3), axes=(1,), intensity=(0.5, 0.5)),
        "spike": tio.RandomSpike(num_spikes=1, intensity=(1, 1)),
        "distortion": tio.RandomElasticDeformation(num_control_points=7, max_displacement=5),
        "defocus": tio.RandomBlur(std=(1, 1)),
        "vendor_filter": tio.RandomBlur(std=(1, 1)),
    }


def monai_counterparts() -> dict[str, Callable]:
    """Operator -> MONAI's array transform."""
    return {
        "rician_noise": mt.RandRicianNoise(prob=1.0, std=20.0, sample_std=False),
        "bias_field": mt.RandBiasField(prob=1.0, degree=3, coeff_range=(0.1, 0.1)),
        "slice_thickness": mt.RandSimulateLowResolution(prob=1.0, zoom_range=(0.25, 0.25)),
        "ct_slice_thickness": mt.RandSimulateLowResolution(prob=1.0, zoom_range=(0.25, 0.25)),
        "in_plane_resolution": mt.GibbsNoise(alpha=0.6),
        "gamma": mt.AdjustContrast(gamma=1.5),
        "gamma_bright": mt.AdjustContrast(gamma=0.7),
        "spike": mt.RandKSpaceSpikeNoise(prob=1.0, intensity_range=(12, 12)),
        "distortion": mt.Rand3DElastic(prob=1.0, sigma_range=(5, 5), magnitude_range=(50, 50), padding_mode="border"),
        "defocus": mt.GaussianSmooth(sigma=1.0),
        "vendor_filter": mt.GaussianSharpen(),
        "gain": mt.ScaleIntensity(minv=None, maxv=None, factor=0.5),
        "calibration_offset": mt.ShiftIntensity(offset=10.0),
    }


def picture(shape: tuple[int, ...], *, hu: bool) -> Tensor:
    """A head-like object with texture, (c, *s): magnitude, or HU."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    texture = sum(np.sin(9 * a + i) for i, a in enumerate(axes)) * 15
    noise = np.random.default_rng(0).normal(0, 3, shape)
    image = np.where(radius < 0.8, 400 + texture + 150 * (radius < 0.4), 0) + np.abs(noise)
    return torch.from_numpy((image * 2 - 1000 if hu else image).astype(np.float32))


def own_call(operator: Operator, image: Tensor, spacing: tuple[float, ...]) -> Call | None:
    """A call of our operator on an image, or None where it is not defined for it."""
    modality = "mr" if "mr" in operator.modalities else operator.modalities[0]
    value = value_at(operator, LEVEL)

    def call(tensor: Tensor) -> Tensor:
        return shifted(operator, value, Scan(tensor, spacing, modality, known_body=body), KEY).exported()

    first = Scan(image, spacing, modality)
    body = first.body
    try:
        check_defined(operator, first)
        call(image)
    except (OperatorError, NotApplicable):
        return None
    return call


def seconds(calls: dict[str, Call], image: Tensor, repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each call, alternating."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            _wait(image)
            start = clock()
            call(image)
            _wait(image)
            taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _wait(image: Tensor) -> None:
    if image.is_cuda:
        torch.cuda.synchronize()


def peak_mb(call: Call, image: Tensor) -> float:
    """Memory in MB that a call needs on top of what was there: of the GPU, or the resident set of this process."""
    if image.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(image)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would be used again unseen
    reset.write_text("5")  # the high-water mark starts anew
    before = _kb(status, "VmRSS")
    call(image)
    return (_kb(status, "VmHWM") - before) / 1024


def _kb(status: Path, key: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def compare(
    operator: Operator, shape: tuple[int, ...], device: str, repeats: int, clock: Clock
) -> dict[str, tuple[float, float]]:
    """Library -> (seconds, MB) of an operator and its counterparts on one kind of image."""
    hu = operator.modalities == ("ct",)
    image = picture(shape, hu=hu).to(device)
    spacing = (1.0, 1.0, 1.0) if len(shape) == 4 else (0.5, 0.5)
    own = own_call(operator, image, spacing)
    if own is None:
        return {}
    calls = {"ours": own}
    torchio, monai = torchio_counterparts().get(operator.name), monai_counterparts().get(operator.name)
    if torchio is not None and not image.is_cuda:  # TorchIO works on the CPU
        calls["torchio"] = lambda x: torchio(x if x.ndim == 4 else x[..., None])
    flat = len(shape) == 3
    if monai is not None and not (flat and isinstance(monai, mt.Rand3DElastic)):
        calls["monai"] = lambda x: monai(x)
    for name in list(calls):
        try:
            calls[name](image)
        except Exception as error:  # a counterpart that cannot do this kind of image is left out, and said so
            if name == "ours":
                raise
            print(f"({operator.name}: {name} cannot do {shape}: {type(error).__name__})")
            del calls[name]
    times = seconds(calls, image, repeats, clock)
    return {name: (times[name], peak_mb(call, image)) for name, call in calls.items()}


def chain_seconds(device: str, repeats: int) -> float:
    """The whole MR chain of a phantom of 128^3: signal equation, coil, k-space operators, noise, magnitude, export."""
    phantom = AbdomenPhantom(patients=1, shape=(128, 128, 128), spacing_mm=(2.0, 3.0, 3.0), supersampling=(1, 1, 1))
    anatomy = phantom.anatomy("p0000", {})
    values = {"slice_thickness": 6.0, "in_plane_resolution": 5.0}
    steps = [Step(name, values.get(name, value_at(OPERATORS[name], LEVEL))) for name in CHAIN if name in OPERATORS]
    table = check_acquisition({"modality": "mr"})
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        acquire(anatomy, maps_of, table, steps, key=KEY, device=device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help="default: all image operators")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of all threads (busy machine)"
    )
    parser.add_argument("--counterparts", action="store_true", help="only operators that another library has too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    names = options.operators or [name for name, op in OPERATORS.items() if op.kind == "image"]
    if options.counterparts:
        others = {*torchio_counterparts(), *monai_counterparts()}
        names = [name for name in names if name in others]
    ratios = []
    print(
        f"torch {torch.__version__}, torchio {tio.__version__}, {options.device}, {options.threads} threads, ", end=""
    )
    print(f"severity {LEVEL}, {options.clock} time, median of {options.repeats}\n")
    for title, shape in (("128 x 128 x 128", VOLUME), ("16 slices of 256 x 256", BATCH)):
        print(f"## {title}\n")
        print("| operator | ours ms | TorchIO ms | MONAI ms | fastest other / ours | ours MB | TorchIO MB | MONAI MB |")
        print("|---|---|---|---|---|---|---|---|")
        for name in names:
            found = compare(OPERATORS[name], shape, options.device, options.repeats, CLOCKS[options.clock])
            if not found:
                continue
            others = [found[k][0] for k in ("torchio", "monai") if k in found]
            ratio = min(others) / found["ours"][0] if others else None
            ratios += [ratio] if ratio else []
            ms = [f"{1000 * found[k][0]:.1f}" if k in found else "" for k in ("ours", "torchio", "monai")]
            mb = [f"{found[k][1]:.0f}" if k in found else "" for k in ("ours", "torchio", "monai")]
            print(f"| {name} | {' | '.join(ms)} | {f'{ratio:.1f}' if ratio else ''} | {' | '.join(mb)} |", flush=True)
        print()
    if ratios:
        print(f"fastest counterpart / ours: median {statistics.median(ratios):.1f}, smallest {min(ratios):.2f}")
    print(f"whole MR chain of a phantom of 128^3 ({', '.join(CHAIN)}): {chain_seconds(options.device, 3):.2f} s")


if __name__ == "__main__":
    main()
