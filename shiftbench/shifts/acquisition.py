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
from shiftbench.shifts import ct, geometry, intensity, measure, mr
from shiftbench.shifts.operators import NOISE_STAGE, Operator, check_value, find, resolve
from shiftbench.shifts.scan import Scan, channels_first, check_image
from shiftbench.shifts.settings import NOMINAL_FIELD_T, Step, check_acquisition
from shiftbench.types import Anatomy

Maps = Mapping[str, np.ndarray]
Key = tuple[int, str, str]  # domain seed, digest of the dataset, case

REFERENCE_SIGNAL = 400.0  # of the reference tissue at the nominal acquisition, in the arbitrary units of MR
B1_PERCENT_PER_T2 = 3.0  # transmit non-uniformity of the trunk grows about as B0 squared: 7 % at 1.5 T, 27 % at 3 T
B1_PERCENT_MOST = 80.0
HU_SEEN = -500.0  # an "MR" image with such values is CT


def flip_angle(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition at `value` % of its flip angle."""
    return {**acquisition, "flip_deg": acquisition["flip_deg"] * value / 100}


def echo_time(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition at `value` % of its echo time; it has to stay below the repetition time."""
    return {**acquisition, "te_ms": acquisition["te_ms"] * value / 100}


def field_strength(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition at a main field of `value` T.

    T1, T2 and T2* are those of the maps at that field; SNR is proportional to the field; the transmit field gets
    less uniform, as the square of the field (dielectric effects in the trunk). Chemical shift is not modelled.
    """
    growth = B1_PERCENT_PER_T2 * (value**2 - acquisition["field_t"] ** 2)
    b1 = min(max(acquisition["b1_percent"] + growth, 0.0), B1_PERCENT_MOST)
    ratio = value / acquisition["field_t"]
    return {**acquisition, "field_t": value, "b1_percent": b1, "snr": acquisition["snr"] * ratio}


def acquire(
    anatomy: Anatomy,
    maps: Callable[[float], Maps] | None,
    acquisition: Mapping[str, Any],
    steps: Sequence[Step],
    *,
    key: Key,
    reference: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """The raw image of a case after an acquisition with its shifts, and what they achieved.

    A phantom goes through the signal equation on its supersampled grid, is averaged to the reference grid (partial
    volume of the signal), shaded by the source's coil, gets the noise of the source and becomes a magnitude; each step
    enters at its place in that order, whatever the order of `steps`. The noise is that of coil and receiver: a step
    that changes the signal does not change it (the field strength does, by its proportion). A real scan is what it
    is: the steps act on its image.

    Every draw is keyed by domain seed, dataset, case, operator, its version and occurrence, so that severities share
    direction and phase, and cells of a factorial share everything.

    Args:
        anatomy: a phantom, or a real scan with its `image`.
        maps: field strength in T -> tissue maps on the supersampled grid (phantoms), or None.
        acquisition: a checked acquisition table (phantoms); ignored for real scans.
        steps: the operators of the shift.
        key: domain seed, digest of the dataset, case.
        reference: bool (*s), tissue in which SNR is stated; by default the whole body.

    Returns:
        The image, float32 (c, *s), and the achieved quantities by name.

    Raises:
        OperatorError: a step is not defined for this image.
        DataError: a real image with NaN, infinity or a single value.
        NotApplicable: the image is beyond a step's value already.
    """
    ordered = sorted(((find(s.operator), s) for s in steps), key=lambda pair: pair[0].stage)
    for operator, step in ordered:
        check_value(operator, step.value)
    if maps is None or anatomy.image is not None:
        scan, measured = _real_scan(anatomy), dict[str, float]()
    else:
        scan, measured = _simulate(anatomy, maps, acquisition, ordered, key, reference)
        before = [pair for pair in ordered if pair[0].kind == "image" and pair[0].stage < NOISE_STAGE]
        ordered = [pair for pair in ordered if pair[0].kind == "image" and pair[0].stage > NOISE_STAGE]
        scan, achieved = _run(scan, before, key)
        measured |= achieved
        scan, measured = _with_source_noise(scan, measured, key)
    scan, achieved = _run(scan, ordered, key)
    return scan.image.numpy().astype(np.float32, copy=False), {**measured, **achieved}


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
    raw = tensor.detach().to("cpu", torch.float32)
    scan = Scan(raw if has_channels else raw[None], spacing, modality)
    check_image(scan.image)
    _check_defined(operator, scan)
    if value is None:
        return image.clone() if isinstance(image, Tensor) else np.array(image)
    out = _shifted(operator, value, scan, key)
    out = out if has_channels else out[0]
    dtype = tensor.dtype if tensor.dtype.is_floating_point else torch.float32
    out = out.to(tensor.device, dtype, copy=True)
    return out if isinstance(image, Tensor) else out.numpy()


def _check_defined(operator: Operator, scan: Scan) -> None:
    """Refuses what the operator is not defined for."""
    name, image = operator.name, scan.image
    if operator.kind == "parameter" or "maps" in operator.requires:
        raise OperatorError("it needs tissue maps, a scan has none", where=name, remedy="use a phantom dataset")
    if scan.modality not in operator.modalities:
        known = ", ".join(operator.modalities)
        raise OperatorError(
            f"it is not defined for modality '{scan.modality}'", where=name, remedy=f"use images of modality {known}"
        )
    if "ct" not in operator.modalities and float(image.min()) < HU_SEEN:
        raise OperatorError("the image seems to be in HU", where=name, remedy="use an operator for CT")
    if "magnitude" in operator.requires and float(image.min()) < 0:
        raise OperatorError(
            "the image has negative values, so it is no magnitude", where=name, remedy="apply it before normalisation"
        )
    if "spacing" in operator.requires and scan.spacing is None:
        raise OperatorError(
            "its value is in mm and the image has no spacing", where=name, remedy="give spacing_mm, one per axis"
        )


def _generator(key: Key, name: str, version: int = 1, occurrence: int = 0) -> np.random.Generator:
    return generator(key[0], key[1], key[2], name, version, occurrence)


def _shifted(operator: Operator, value: float, scan: Scan, key: Key, occurrence: int = 0) -> Tensor:
    rng = _generator(key, operator.name, operator.version, occurrence)
    return resolve(operator.function)(scan, value, rng)


def _run(scan: Scan, steps: Sequence[tuple[Operator, Step]], key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan after the steps in the given order, and what each achieved against the one before."""
    measured: dict[str, float] = {}
    for operator, step in steps:
        _check_defined(operator, scan)
        after = replace(scan, image=_shifted(operator, step.value, scan, key, step.occurrence))
        measured |= _achieved(operator, step.value, scan, after)
        scan = _updated(operator, step.value, scan, after)
    return scan, measured


def _updated(operator: Operator, value: float, before: Scan, after: Scan) -> Scan:
    """`after` with what is now known of its noise and slices, where it was known before."""
    native = dict(before.native)
    if operator.name == "rician_noise" and "sigma" in native:
        native["sigma"] = max(native["sigma"], float(before.reference_signal[0]) / value)
    if operator.name == "gain" and "sigma" in native:
        native["sigma"] *= value
    if operator.name == "slice_thickness":
        native["slice_mm"] = value
    return replace(after, native=native)


def _achieved(operator: Operator, value: float, before: Scan, after: Scan) -> dict[str, float]:
    quantity = operator.achieved
    if quantity == "snr":
        mask = before.body if before.known_reference is None else before.known_reference
        sigma = float(before.sigma[0])
        return {"snr": measure.snr(after.image[0], before.image[0], mask, native_sigma=sigma)}
    if quantity == "inu_percent":
        return {"inu_percent": measure.inu_percent(after.image[0], before.image[0], before.body)}
    if quantity == "edge_fwhm_mm":
        step = before.spacing_or_pixels[0]
        return {"edge_fwhm_mm": geometry.slice_profile_fwhm_mm(value, step) if value > step * 1.001 else step}
    if quantity == "acquired_mm":
        n, step = before.image.shape[-1], before.spacing_or_pixels[-1]
        return {"acquired_mm": geometry.acquired_pixel_mm(n, step, value)}
    return {f"{operator.name}_nrmse": measure.nrmse(after.image, before.image)}


def _real_scan(anatomy: Anatomy) -> Scan:
    if anatomy.image is None:
        raise OperatorError("a phantom needs its tissue maps", where=anatomy.case_id, remedy="give a function of maps")
    image = torch.from_numpy(np.array(anatomy.image, dtype=np.float32))
    check_image(image, anatomy.case_id)
    return Scan(image, anatomy.geometry.spacing, anatomy.modality)


def _simulate(
    anatomy: Anatomy,
    maps: Callable[[float], Maps],
    acquisition: Mapping[str, Any],
    steps: Sequence[tuple[Operator, Step]],
    key: Key,
    reference: np.ndarray | None,
) -> tuple[Scan, dict[str, float]]:
    """The noise-free image of a phantom with the source's shading, and what the parameter steps changed."""
    nominal = check_acquisition(acquisition, anatomy.case_id)
    shifted = dict(nominal)
    for operator, step in steps:
        if operator.kind == "parameter":
            if nominal["modality"] not in operator.modalities:
                raise OperatorError(
                    f"it is not defined for modality '{nominal['modality']}'",
                    where=operator.name,
                    remedy=f"use a source of modality {', '.join(operator.modalities)}",
                )
            shifted = resolve(operator.function)(shifted, step.value)
    body = torch.from_numpy(anatomy.fine > 0)
    tissue = body if reference is None or not reference.any() else torch.from_numpy(reference)
    image = _render(anatomy, maps, shifted, body, key)
    native = {"slice_mm": float(shifted["slice_mm"])} if "slice_mm" in shifted else {}
    if nominal["modality"] == "ct":
        native["sigma"] = float(shifted["noise_hu"]) * (100 / float(shifted["dose_percent"])) ** 0.5
        scan = Scan(image, anatomy.geometry.spacing, "ct", native, body, tissue)
        return _thick(scan, steps, key), {}
    start = image if shifted == nominal else _render(anatomy, maps, nominal, body, key)
    scale = REFERENCE_SIGNAL / float(start[:, tissue].median())
    native["sigma"] = REFERENCE_SIGNAL / float(shifted["snr"])
    scan = Scan(image * scale, anatomy.geometry.spacing, "mr", native, body, tissue)
    bias = intensity.bias_field(scan, float(shifted["bias_percent"]), _generator(key, "source coil"))
    measured = {
        name: float(shifted[name]) for name in ("flip_deg", "te_ms", "field_t") if shifted[name] != nominal[name]
    }
    return _thick(replace(scan, image=bias), steps, key), measured


def _render(
    anatomy: Anatomy, maps: Callable[[float], Maps], acquisition: Mapping[str, Any], body: Tensor, key: Key
) -> Tensor:
    """Signal of the phantom on its reference grid, (1, *s): signal equation on the fine grid, then its mean."""
    ndim = anatomy.fine.ndim
    factors = tuple(anatomy.supersampling[-ndim:])
    if acquisition["modality"] == "ct":
        return _pooled(ct.hu(maps(NOMINAL_FIELD_T), acquisition), factors)
    if acquisition["b1_percent"]:
        field = intensity.smooth_field(body, anatomy.geometry.spacing_or_pixels(ndim), _generator(key, "transmit coil"))
        b1 = (field * intensity.amplitude(field[body], acquisition["b1_percent"])).exp()
        for axis, factor in enumerate(factors):
            b1 = b1.repeat_interleave(factor, dim=axis)
        acquisition = {**acquisition, "b1": b1}
    return _pooled(mr.signal(maps(float(acquisition["field_t"])), acquisition), factors)


def _pooled(fine: np.ndarray, factors: tuple[int, ...]) -> Tensor:
    """Means over blocks of `factors` voxels, (*f) -> (1, *s)."""
    shape = [size for n, factor in zip(fine.shape, factors, strict=True) for size in (n // factor, factor)]
    pooled = torch.as_tensor(fine).reshape(shape).mean(dim=tuple(range(1, 2 * len(factors), 2)))
    return pooled[None].to(torch.float32)


def _thick(scan: Scan, steps: Sequence[tuple[Operator, Step]], key: Key) -> Scan:
    """The scan in the source's slices, unless a step sets the thickness: one acquisition has one."""
    if scan.ndim != 3 or scan.spacing is None or "slice_mm" not in scan.native:
        return scan
    thickness = scan.native["slice_mm"]
    if any(operator.name == "slice_thickness" for operator, _ in steps) or thickness <= scan.spacing[0] * 1.001:
        return scan
    operator = find("slice_thickness")
    native = {name: value for name, value in scan.native.items() if name != "slice_mm"}
    image = _shifted(operator, thickness, replace(scan, native=native), key)
    return replace(scan, image=image)


def _with_source_noise(scan: Scan, measured: dict[str, float], key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan with the noise of its scanner: a magnitude in MR, Gaussian in CT."""
    rng = _generator(key, "source noise")
    sigma = scan.sigma
    if scan.modality == "ct":
        draw = torch.from_numpy(rng.standard_normal(scan.image.shape, dtype=np.float32))
        noisy = scan.image + float(sigma[0]) * draw
    else:
        noisy = intensity.with_complex_noise(scan.image, sigma, rng)
        mask = scan.body if scan.known_reference is None else scan.known_reference
        measured = {**measured, "snr": measure.snr(noisy[0], scan.image[0], mask)}
    return replace(scan, image=noisy), measured
