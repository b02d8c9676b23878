"""From anatomy to image: the physical order of an acquisition, and the steps of a shift within it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import ct, ct_image, intensity, measure, mr, parameters
from shiftbench.shifts.mr_spin import fse_psf
from shiftbench.shifts.operator import LabelPolicy, resolve
from shiftbench.shifts.operators import NOISE_STAGE, find
from shiftbench.shifts.scan import Scan, body_mask, check_image
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.steps import Key, Ordered, draws, in_order, run
from shiftbench.shifts.warps import pull
from shiftbench.types import Anatomy

Maps = Mapping[str, Tensor]
MapsOf = Callable[[Anatomy, Mapping[str, Any]], Maps]  # tissue maps of a phantom under an acquisition

REFERENCE_SIGNAL = 400.0  # of the reference tissue at the nominal acquisition, in the arbitrary units of MR
# key of an acquisition table -> the operator that carries it out, at the value of that key
CARRIED_OUT_BY = {"filter_gain": "vendor_filter", "gain": "gain"}
THICKNESS = {"mr": "slice_thickness", "ct": "ct_slice_thickness"}
SLICES = {"slice_thickness", "slice_thickness_gauss", "slice_thickness_slr", "ct_slice_thickness"}


def acquire(
    anatomy: Anatomy,
    maps: MapsOf | None,
    acquisition: Mapping[str, Any],
    steps: Sequence[Step],
    *,
    key: Key,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, dict[str, float]]:
    """The raw image of a case after an acquisition with its shifts, and what they achieved.

    A phantom goes through the signal equation on its supersampled grid, is averaged to the reference grid (partial
    volume of the signal), shaded by the source's coil, cut into slices, gets the noise of its scanner on the grid that
    is acquired, becomes a magnitude (MR), and comes back to the reference grid at the end; each step enters at its
    place in that order, whatever the order of `steps`. The noise is that of coil and receiver: a step that changes the
    signal does not change it, while the field strength (in proportion), the slice thickness (SNR is proportional to
    the voxel's volume) and the cut of k-space do. A real scan is what it is: the steps act on its image.

    Every draw is keyed by domain seed, dataset, case, operator, its version and occurrence, so that severities share
    direction and phase, and cells of a factorial share everything.

    Args:
        anatomy: a phantom, or a real scan with its `image`.
        maps: (anatomy, acquisition) -> tissue maps on the supersampled grid (phantoms), or None.
        acquisition: a checked acquisition table (phantoms); ignored for real scans.
        steps: the operators of the shift.
        key: domain seed, digest of the dataset, case.
        device: where to compute.

    Returns:
        The image, float32 (c, *s), and the achieved quantities by name.

    Raises:
        OperatorError: a step is not defined for this image.
        DataError: a real image with NaN, infinity or a single value.
        NotApplicable: the image is beyond a step's value already.
    """
    ordered = in_order(steps)
    if maps is None or anatomy.image is not None:
        scan, measured = run(_real_scan(anatomy, ordered, device), ordered, key)
    else:
        scan, measured = _phantom(anatomy, maps, acquisition, ordered, key, device)
    return scan.exported().cpu().numpy().astype(np.float32, copy=False), measured


def moved_labels(anatomy: Anatomy, steps: Sequence[Step], *, key: Key) -> Anatomy:
    """The anatomy with its labels and instances where co-warp steps have moved the image; otherwise the same object."""
    moving = [(operator, step) for operator, step in in_order(steps) if operator.policy is LabelPolicy.CO_WARP]
    if not moving:
        return anatomy
    body = _body_of(anatomy)
    labels = [anatomy.fine] if anatomy.instances is None else [anatomy.fine, anatomy.instances]
    stack = torch.from_numpy(np.stack(labels).astype(np.float32))
    spacing = anatomy.geometry.spacing_or_pixels(anatomy.fine.ndim)
    for operator, step in moving:
        assert operator.displacement is not None
        rng = draws(key, operator.name, operator.version, step.occurrence)
        field = resolve(operator.displacement)(anatomy.fine.shape, spacing, body, step.value, rng)
        stack = pull(stack, field, spacing, mode="nearest")
    moved = stack.round().numpy().astype(anatomy.fine.dtype)
    return replace(anatomy, fine=moved[0], instances=moved[1] if len(labels) > 1 else None)


def _body_of(anatomy: Anatomy) -> Tensor:
    """Bool (*s): the body of a phantom, or the label-free one of a real scan as it came."""
    if anatomy.image is None:
        return torch.from_numpy(anatomy.fine > 0)
    return body_mask(torch.from_numpy(np.array(anatomy.image, dtype=np.float32)), anatomy.modality)


def _real_scan(anatomy: Anatomy, steps: Ordered, device: str | torch.device) -> Scan:
    if anatomy.image is None:
        raise OperatorError("a phantom needs its tissue maps", where=anatomy.case_id, remedy="give a function of maps")
    image = torch.from_numpy(np.array(anatomy.image, dtype=np.float32))
    check_image(image, anatomy.case_id)
    moves = any(operator.policy is LabelPolicy.CO_WARP for operator, _ in steps)
    body = _body_of(anatomy).to(device) if moves else None  # labels are moved by a field made of the same body
    return Scan(image.to(device), anatomy.geometry.spacing, anatomy.modality, known_body=body)


def _phantom(
    anatomy: Anatomy,
    maps: MapsOf,
    acquisition: Mapping[str, Any],
    steps: Ordered,
    key: Key,
    device: str | torch.device,
) -> tuple[Scan, dict[str, float]]:
    """A phantom's scan after its whole acquisition, and what the steps achieved."""
    nominal = check_acquisition(acquisition, anatomy.case_id)
    table, measured = _settings(nominal, steps)
    scan = _noise_free(anatomy, maps, nominal, table, key, device)
    imaging = _implied(table, steps, scan)
    imaging += [pair for pair in steps if pair[0].kind == "image"]
    imaging.sort(key=lambda pair: pair[0].stage)
    scan, before = run(scan, [pair for pair in imaging if pair[0].stage < NOISE_STAGE], key)
    scan, noise = _with_scanner_noise(scan, table, key)
    scan, after = run(scan, [pair for pair in imaging if pair[0].stage >= NOISE_STAGE], key)
    return scan, {**noise, **measured, **before, **after}


def _settings(nominal: Mapping[str, Any], steps: Ordered) -> tuple[dict[str, Any], dict[str, float]]:
    """The acquisition table after the parameter steps, and the settings that they reached."""
    table, measured = dict(nominal), dict[str, float]()
    for operator, step in steps:
        if nominal["modality"] not in operator.modalities:
            raise OperatorError(
                f"it is not defined for modality '{nominal['modality']}'",
                where=operator.name,
                remedy=f"use a source of modality {', '.join(operator.modalities)}",
            )
        if operator.kind == "parameter":
            table = resolve(operator.function)(table, step.value)
            reached = table.get(operator.measure, step.value)
            measured[operator.achieved] = float(reached) if isinstance(reached, int | float) else step.value
    return table, measured


def _implied(table: Mapping[str, Any], steps: Ordered, scan: Scan) -> Ordered:
    """What the acquisition table itself asks of the image: slices, pixels, filter, scaling; a step goes before it."""
    given = {operator.name for operator, _ in steps}
    wanted = {CARRIED_OUT_BY[k]: float(table[k]) for k in CARRIED_OUT_BY if table.get(k)}
    slice_mm, native = table.get("slice_mm"), scan.spacing_or_pixels
    if slice_mm and scan.ndim == 3 and slice_mm > native[0] * 1.001:
        if not given & SLICES:
            wanted[THICKNESS[scan.modality]] = float(slice_mm)
        thinner = [step.value for operator, step in steps if operator.name in SLICES and step.value < slice_mm * 0.999]
        if thinner:
            problem = f"slices of {thinner[0]:g} mm were asked of a source with slices of {slice_mm:g} mm"
            raise NotApplicable(problem, where=THICKNESS[scan.modality], remedy="ask for thicker slices")
    pixel = table.get("pixel_mm") or table.get("pixel_factor", 1.0) * max(native[-2:])
    if pixel > max(native[-2:]) * 1.001:
        wanted["in_plane_resolution"] = float(pixel)
    found = [(find(name), Step(name, value)) for name, value in wanted.items() if name not in given]
    return [(operator, step) for operator, step in found if step.value != operator.identity]


def _noise_free(
    anatomy: Anatomy,
    maps: MapsOf,
    nominal: Mapping[str, Any],
    table: Mapping[str, Any],
    key: Key,
    device: str | torch.device,
) -> Scan:
    """The signal of a phantom on its reference grid, with the shading of the source's coil (MR)."""
    body = torch.from_numpy(anatomy.fine > 0).to(device)
    tissue = body
    if anatomy.reference_label is not None and (anatomy.fine == anatomy.reference_label).any():
        tissue = torch.from_numpy(anatomy.fine == anatomy.reference_label).to(device)
    image = _render(anatomy, maps, table, body, key, device)
    scan = Scan(image, anatomy.geometry.spacing, str(nominal["modality"]), {}, body, tissue)
    if nominal["modality"] == "ct":
        sigma = float(table["noise_hu"]) * (100 / float(table["dose_percent"]) * _thicker(table, scan)) ** 0.5
        return scan.with_image(image, scanner_sigma=sigma, mtf50=float(table.get("kernel_mtf50_lp_mm", 0.42)))
    # another sequence is tuned anew: its SNR is that of its own reference tissue
    tuned = table if table["sequence"] != nominal["sequence"] else nominal
    start = image if tuned == table else _render(anatomy, maps, tuned, body, key, device)
    scale = REFERENCE_SIGNAL / float(start[:, tissue].median())
    echo = float(table.get("te_ms", float(table["tr_ms"]) / 2))  # bSSFP is read half way between its pulses
    sigma = REFERENCE_SIGNAL / float(table["snr"]) * _thicker(table, scan)  # of the thin slices of the grid
    scan = scan.with_image(image * scale, scanner_sigma=sigma, te_ms=echo)
    scan = intensity.bias_field(scan, float(table["bias_percent"]), draws(key, "source coil"))
    return _along_the_train(scan, anatomy, table)


def _thicker(table: Mapping[str, Any], scan: Scan) -> float:
    """Thickness of the source's slices, in which its noise is stated, over that of the grid; at least 1."""
    if scan.ndim != 3 or not table.get("slice_mm"):
        return 1.0
    return max(1.0, float(table["slice_mm"]) / scan.spacing_or_pixels[0])


def _along_the_train(scan: Scan, anatomy: Anatomy, table: Mapping[str, Any]) -> Scan:
    """The scan with the T2 decay along an echo train (FSE, FLAIR), by the T2 of the tissue in which SNR is stated."""
    if not table.get("etl") or not table.get("esp_ms") or anatomy.values is None or anatomy.reference_label is None:
        return scan
    chosen = anatomy.values["fine_label"] == anatomy.reference_label
    t2_ms = float(np.median(anatomy.values["T2_ms_1.5T"][chosen]))
    lines = scan.shape[-2]
    te_ms, esp_ms, etl = float(table["te_ms"]), float(table["esp_ms"]), int(table["etl"])
    weights = fse_psf(t2_ms, esp_ms, etl, lines, te_ms=te_ms, device=scan.device)
    return scan.with_signal(Signal(spectrum=scan.signal.spectrum * weights[:, None]))


def _render(
    anatomy: Anatomy,
    maps: MapsOf,
    table: Mapping[str, Any],
    body: Tensor,
    key: Key,
    device: str | torch.device,
) -> Tensor:
    """Signal of the phantom on its reference grid, (1, *s): signal equation on the fine grid, then its mean."""
    factors = tuple(anatomy.supersampling[-anatomy.fine.ndim :])
    if table.get("tissue_jitter_percent") and anatomy.values is not None:
        rng = draws(key, "tissue_jitter")
        anatomy = replace(anatomy, values=parameters.jittered(anatomy.values, table["tissue_jitter_percent"], rng))
    tissue_maps = maps(anatomy, table)
    if table["modality"] == "ct":
        return _pooled(ct.hu(tissue_maps, table), factors, device)
    if table["b1_percent"]:
        table = {**table, "b1": _b1(anatomy, float(table["b1_percent"]), body, factors, key)}
    signal = mr.transverse(tissue_maps, table)
    if not table.get("fat_shift_mm"):
        return _pooled(signal, factors, device).abs()
    fat = _pooled(signal * tissue_maps["FAT"], factors, device)
    pixels = float(table["fat_shift_mm"]) / anatomy.geometry.spacing_or_pixels(anatomy.fine.ndim)[-1]
    return (_pooled(signal, factors, device) - fat + _along_readout(fat, pixels)).abs()


def _along_readout(image: Tensor, pixels: float) -> Tensor:
    """The image (c, *s) displaced along its last axis, linear between pixels; what leaves one side enters the other."""
    whole = math.floor(pixels)
    near, far = (image.roll(whole + i, dims=-1) for i in (0, 1))
    return torch.lerp(near, far, pixels - whole)


def _b1(anatomy: Anatomy, percent: float, body: Tensor, factors: tuple[int, ...], key: Key) -> Tensor:
    """Relative transmit field on the supersampled grid, (*f)."""
    spacing = anatomy.geometry.spacing_or_pixels(anatomy.fine.ndim)
    field = intensity.smooth_field(body, spacing, draws(key, "transmit coil"))
    b1 = (field * intensity.amplitude(field[body], percent)).exp()
    for axis, factor in enumerate(factors):
        b1 = b1.repeat_interleave(factor, dim=axis)
    return b1


def _pooled(fine: Tensor, factors: tuple[int, ...], device: str | torch.device) -> Tensor:
    """Means over blocks of `factors` voxels, (*f) -> (1, *s)."""
    fine = torch.as_tensor(fine).to(device)
    shape = [size for n, factor in zip(fine.shape, factors, strict=True) for size in (n // factor, factor)]
    return fine.reshape(shape).mean(dim=tuple(range(1, 2 * len(factors), 2)))[None]


def _with_scanner_noise(scan: Scan, table: Mapping[str, Any], key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan with the noise of its scanner: complex and white in MR, coloured by the kernel in CT."""
    rng = draws(key, "source noise", occurrence=int(table.get("renoise", 0)))
    sigma = scan.native["scanner_sigma"]
    native = {name: value for name, value in scan.native.items() if name != "scanner_sigma"}
    clean = replace(scan, native={**native, "sigma": sigma})
    if scan.modality == "ct":
        noisy = ct_image.ct_source_noise(clean, sigma, native["mtf50"], rng)
        return ct_image.miscalibrated(noisy, float(table["offset_hu"])), {}
    noisy = intensity.add_complex_noise(clean, torch.full((len(scan.image),), sigma, device=scan.device), rng)
    return noisy, {"snr": measure.snr(noisy.image[0], scan.image[0], scan.reference_mask)}
