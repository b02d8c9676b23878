"""From anatomy to image: the physical order of an acquisition, and the steps of a shift within it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import ct, ct_image, intensity, measure, mr, parameters
from shiftbench.shifts.operator import LabelPolicy, Operator, resolve
from shiftbench.shifts.operators import NOISE_STAGE, check_value, find
from shiftbench.shifts.scan import Scan, body_mask, channels_first, check_image
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.warps import pull
from shiftbench.types import Anatomy

Maps = Mapping[str, Tensor]
MapsOf = Callable[[Anatomy, Mapping[str, Any]], Maps]  # tissue maps of a phantom under an acquisition
Key = tuple[int, str, str]  # domain seed, digest of the dataset, case
Ordered = list[tuple[Operator, Step]]

REFERENCE_SIGNAL = 400.0  # of the reference tissue at the nominal acquisition, in the arbitrary units of MR
HU_SEEN = -500.0  # an "MR" image with such values is CT
# key of an acquisition table -> the operator that carries it out, at the value of that key
CARRIED_OUT_BY = {"pixel_mm": "in_plane_resolution", "filter_gain": "vendor_filter", "gain": "gain"}
THICKNESS = {"mr": "slice_thickness", "ct": "ct_slice_thickness"}


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
        scan, measured = _run(_real_scan(anatomy, ordered, device), ordered, key)
    else:
        scan, measured = _phantom(anatomy, maps, acquisition, ordered, key, device)
    return scan.exported().cpu().numpy().astype(np.float32, copy=False), measured


def in_order(steps: Sequence[Step]) -> Ordered:
    """Operators and steps in the physical order of an acquisition.

    Raises:
        OperatorError: an unknown operator, or a value out of its range.
    """
    ordered = sorted(((find(s.operator), s) for s in steps), key=lambda pair: pair[0].stage)
    for operator, step in ordered:
        check_value(operator, step.value)
    return ordered


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
        rng = _generator(key, operator.name, operator.version, step.occurrence)
        field = resolve(operator.displacement)(anatomy.fine.shape, spacing, body, step.value, rng)
        stack = pull(stack, field, spacing, mode="nearest")
    moved = stack.round().numpy().astype(anatomy.fine.dtype)
    return replace(anatomy, fine=moved[0], instances=moved[1] if len(labels) > 1 else None)


def apply_to_array(
    operator: Operator,
    value: float | None,
    image: Any,
    *,
    spacing: tuple[float, ...] | None,
    key: Key,
    modality: str,
) -> Any:
    """One operator on an array or tensor, (*s) or (c, *s); `value` None gives a copy (see `operators.apply`)."""
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    has_channels = channels_first(tensor.shape, spacing, modality)
    raw = tensor.detach().to(torch.float32)
    scan = Scan(raw if has_channels else raw[None], spacing, modality)
    check_image(scan.image)
    check_defined(operator, scan)
    if value is None:
        return image.clone() if isinstance(image, Tensor) else np.array(image)
    out = shifted(operator, value, scan, key).exported()
    out = out if has_channels else out[0]
    dtype = tensor.dtype if tensor.dtype.is_floating_point else torch.float32
    out = out.to(tensor.device, dtype, copy=True)
    return out if isinstance(image, Tensor) else out.numpy()


def check_defined(operator: Operator, scan: Scan) -> None:
    """Refuses what the operator is not defined for.

    Raises:
        OperatorError: the operator needs maps, another modality, a magnitude, HU, a spacing, a volume or channels.
    """
    name, needs = operator.name, operator.requires
    if operator.kind == "parameter" or "maps" in needs:
        raise OperatorError("it needs tissue maps, a scan has none", where=name, remedy="use a phantom dataset")
    if scan.modality not in operator.modalities:
        known = ", ".join(operator.modalities)
        raise OperatorError(
            f"it is not defined for modality '{scan.modality}'", where=name, remedy=f"use images of modality {known}"
        )
    if "volume" in needs and scan.ndim != 3:
        raise OperatorError("a 2-D image has no slice axis", where=name, remedy="use a volume or another operator")
    if "spacing" in needs and scan.spacing is None:
        raise OperatorError(
            "its value is in mm and the image has no spacing", where=name, remedy="give spacing_mm, one per axis"
        )
    if isinstance(scan.raw, Signal):
        return  # not yet detected: its magnitude is not negative
    least = float(scan.image.min())
    if "ct" not in operator.modalities and least < HU_SEEN:
        raise OperatorError("the image seems to be in HU", where=name, remedy="use an operator for CT")
    if "hu" in needs and least > HU_SEEN:
        raise OperatorError(
            f"the smallest value is {least:g}, so the image is not in HU", where=name, remedy="convert it to HU first"
        )
    if "magnitude" in needs and least < 0:
        raise OperatorError(
            "the image has negative values, so it is no magnitude", where=name, remedy="apply it before normalisation"
        )
    if "channels" in needs and len(scan.image) < 2:
        raise OperatorError("the image has one channel", where=name, remedy="use images of several channels")


def shifted(operator: Operator, value: float, scan: Scan, key: Key, occurrence: int = 0) -> Scan:
    """The scan after one image operator."""
    rng = _generator(key, operator.name, operator.version, occurrence)
    return resolve(operator.function)(scan, value, rng)


def achieved(operator: Operator, value: float, before: Scan, after: Scan) -> dict[str, float]:
    """What an image operator achieved, by the name of the quantity."""
    return {operator.achieved: float(resolve(operator.measure)(before, after, value))}


def _generator(key: Key, name: str, version: int = 1, occurrence: int = 0) -> np.random.Generator:
    return generator(key[0], key[1], key[2], name, version, occurrence)


def _run(scan: Scan, steps: Ordered, key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan after the steps in the given order, and what each achieved against the one before."""
    measured: dict[str, float] = {}
    for operator, step in steps:
        check_defined(operator, scan)
        after = shifted(operator, step.value, scan, key, step.occurrence)
        measured |= achieved(operator, step.value, scan, after)
        scan = after
    return scan, measured


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
    imaging = _implied(nominal, table, steps, scan)
    imaging += [pair for pair in steps if pair[0].kind == "image"]
    imaging.sort(key=lambda pair: pair[0].stage)
    scan, before = _run(scan, [pair for pair in imaging if pair[0].stage < NOISE_STAGE], key)
    scan, noise = _with_scanner_noise(scan, table, key)
    scan, after = _run(scan, [pair for pair in imaging if pair[0].stage >= NOISE_STAGE], key)
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
            reached = table[operator.measure.removeprefix("setting:")]
            measured[operator.achieved] = float(reached) if isinstance(reached, int | float) else step.value
    return table, measured


def _implied(nominal: Mapping[str, Any], table: Mapping[str, Any], steps: Ordered, scan: Scan) -> Ordered:
    """What the acquisition table itself asks of the image: its slices, pixels, filter and gain; steps go before it."""
    given = {operator.name for operator, _ in steps}
    wanted = {CARRIED_OUT_BY[k]: float(table[k]) for k in CARRIED_OUT_BY if table.get(k) is not None}
    modality, native = str(nominal["modality"]), scan.spacing
    if table.get("slice_mm") is not None and scan.ndim == 3 and native and table["slice_mm"] > native[0] * 1.001:
        wanted["slice_thickness"] = float(table["slice_mm"])
    if THICKNESS[modality] in given:
        wanted.pop("slice_thickness", None)
    if "in_plane_resolution" in wanted and native and wanted["in_plane_resolution"] <= max(native[-2:]) * 1.001:
        wanted.pop("in_plane_resolution")
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
        sigma = float(table["noise_hu"]) * (100 / float(table["dose_percent"])) ** 0.5
        return scan.with_image(image, scanner_sigma=sigma, mtf50=float(table.get("kernel_mtf50_lp_mm", 0.42)))
    # another sequence is tuned anew: its SNR is that of its own reference tissue
    tuned = table if table["sequence"] != nominal["sequence"] else nominal
    start = image if tuned == table else _render(anatomy, maps, tuned, body, key, device)
    scale = REFERENCE_SIGNAL / float(start[:, tissue].median())
    scan = scan.with_image(image * scale, scanner_sigma=REFERENCE_SIGNAL / float(table["snr"]))
    return intensity.bias_field(scan, float(table["bias_percent"]), _generator(key, "source coil"))


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
        rng = _generator(key, "tissue_jitter")
        anatomy = replace(anatomy, values=parameters.jittered(anatomy.values, table["tissue_jitter_percent"], rng))
    tissue_maps = maps(anatomy, table)
    if table["modality"] == "ct":
        return _pooled(ct.hu(tissue_maps, table), factors, device)
    if table["b1_percent"]:
        table = {**table, "b1": _b1(anatomy, float(table["b1_percent"]), body, factors, key)}
    return _pooled(mr.signal(tissue_maps, table), factors, device)


def _b1(anatomy: Anatomy, percent: float, body: Tensor, factors: tuple[int, ...], key: Key) -> Tensor:
    """Relative transmit field on the supersampled grid, (*f)."""
    spacing = anatomy.geometry.spacing_or_pixels(anatomy.fine.ndim)
    field = intensity.smooth_field(body, spacing, _generator(key, "transmit coil"))
    b1 = (field * intensity.amplitude(field[body], percent)).exp()
    for axis, factor in enumerate(factors):
        b1 = b1.repeat_interleave(factor, dim=axis)
    return b1


def _pooled(fine: Tensor, factors: tuple[int, ...], device: str | torch.device) -> Tensor:
    """Means over blocks of `factors` voxels, (*f) -> (1, *s)."""
    fine = torch.as_tensor(fine).to(device, torch.float32)
    shape = [size for n, factor in zip(fine.shape, factors, strict=True) for size in (n // factor, factor)]
    return fine.reshape(shape).mean(dim=tuple(range(1, 2 * len(factors), 2)))[None]


def _with_scanner_noise(scan: Scan, table: Mapping[str, Any], key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan with the noise of its scanner: complex and white in MR, coloured by the kernel in CT."""
    rng = _generator(key, "source noise", occurrence=int(table.get("renoise", 0)))
    sigma = scan.native["scanner_sigma"]
    native = {name: value for name, value in scan.native.items() if name != "scanner_sigma"}
    clean = replace(scan, native={**native, "sigma": sigma})
    if scan.modality == "ct":
        return ct_image.ct_source_noise(clean, sigma, native["mtf50"], rng), {}
    noisy = intensity.add_complex_noise(clean, torch.full((len(scan.image),), sigma, device=scan.device), rng)
    return noisy, {"snr": measure.snr(noisy.image[0], scan.image[0], scan.reference_mask)}
