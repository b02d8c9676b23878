"""Properties that every acquisition operator has to have, on random anatomies."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import OPERATORS, LabelPolicy, apply, mr, value_at
from shiftbench.shifts.acquisition import acquire
from shiftbench.shifts.measure import nrmse
from shiftbench.shifts.operators import resolve
from shiftbench.shifts.settings import ACQUISITION_KEYS, SEQUENCES, Step
from shiftbench.types import Anatomy, Geometry

SLOW = {"ct_metal", "ct_beam_hardening", "ct_projection_dose", "bias_correction"}  # seconds a call: tests of their own
NEEDS_TISSUE = {"contrast_transfer_flip", "contrast_transfer_field", "b0_field", "ct_iterative"}  # refused on these
IMAGE_OPERATORS = sorted(
    name for name, op in OPERATORS.items() if op.kind == "image" and name not in SLOW | NEEDS_TISSUE
)
ORDERED = sorted(name for name in IMAGE_OPERATORS if OPERATORS[name].monotone)
# slices of a random grid: one may suit an image better than a finer one, so the order is that of the achieved quantity
RANDOM_GRID = {name for name in IMAGE_OPERATORS if name.startswith(("slice_", "ct_slice"))}
GRIDS = [((44, 44), (1.0, 1.0)), ((18, 40, 40), (2.0, 1.0, 1.0)), ((40, 24, 24), (1.0, 0.9, 0.9))]
cases = st.tuples(st.integers(0, 2**31), st.sampled_from(GRIDS))
few = settings(max_examples=3, deadline=None, derandomize=True)


def modality_of(name: str) -> str:
    modalities = OPERATORS[name].modalities
    return "mr" if "mr" in modalities else modalities[0]


def scan_of(seed: int, shape: tuple[int, ...], name: str = "rician_noise") -> np.ndarray:
    """A float32 image that the operator is defined for: an ellipsoid of random blobs and texture, without noise.

    Magnitude (*s), HU (*s), or three colours (3, *s).
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = sum(a**2 for a in axes) < rng.uniform(0.6, 0.95)
    image = np.full(shape, 300.0)
    for _ in range(6):
        centre, radius = rng.uniform(-0.6, 0.6, len(shape)), rng.uniform(0.15, 0.4)
        blob = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2
        image[blob] = rng.uniform(150, 500)
    texture = sum(np.sin(a * rng.uniform(4, 12) + rng.uniform(0, 6)) for a in axes)
    image = (body * (image + 8 * texture)).astype(np.float32)
    modality = modality_of(name)
    if modality == "ct":
        return (image * 0.4 - 1000 * (1 - body)).astype(np.float32)
    if "channels" in OPERATORS[name].requires or modality == "rgb":
        return np.stack([image * f / 4 for f in (1.0, 0.8, 0.6)]).astype(np.float32)
    return image / 3 if modality == "grey" else image


def shifted(name, image, spacing, *, level, seed=0):
    """The image at a severity, or None where the scan is beyond it already or the operator is not for its axes."""
    flat = len(spacing) == 2
    if not flat and modality_of(name) in ("rgb", "grey"):
        return None  # photographs have two axes
    if flat and "volume" in OPERATORS[name].requires:
        with pytest.raises(OperatorError, match="no slice axis"):
            apply(name, image, severity=level, spacing_mm=spacing, seed=seed, modality=modality_of(name))
        return None
    try:
        return apply(name, image, severity=level, spacing_mm=spacing, seed=seed, modality=modality_of(name))
    except NotApplicable:
        return None


def achieved(name, image, spacing, level):
    channels = image if image.ndim > len(spacing) else image[None]
    fine = np.zeros(channels.shape[1:], np.int16)
    anatomy = Anatomy("a", "a", Geometry(spacing), fine, image=channels, modality=modality_of(name))
    image, measured = acquire(anatomy, None, {}, [Step(name, value_at(OPERATORS[name], level))], key=(0, "", "a"))
    return measured


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases)
@few
def test_severity_zero_is_the_identity_to_the_bit(name, case):
    seed, (shape, spacing) = case
    if "volume" in OPERATORS[name].requires and len(shape) == 2:
        return
    image = scan_of(seed, shape, name)
    options = {"severity": 0, "spacing_mm": spacing, "seed": seed, "modality": modality_of(name)}
    same = apply(name, image, **options)
    assert same.tobytes() == image.tobytes() and same is not image
    tensor = torch.from_numpy(image)
    assert torch.equal(apply(name, tensor, **options), tensor)


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases, level=st.integers(1, 5))
@few
def test_one_key_gives_one_result_in_any_order(name, case, level):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape, name)
    first = shifted(name, image, spacing, level=level, seed=seed)
    for other in ("rician_noise", "bias_field", "gamma"):  # draws in between, and another case, change nothing
        shifted(other, scan_of(seed, shape) + 1, spacing, level=1, seed=seed + 1)
    again = shifted(name, image, spacing, level=level, seed=seed)
    assert (first is None) == (again is None)
    assert first is None or first.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases, level=st.integers(1, 5))
@few
def test_shape_and_dtype_are_kept_and_the_input_is_left_alone(name, case, level):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape, name)
    before = image.copy()
    out = shifted(name, image, spacing, level=level, seed=seed)
    assert image.tobytes() == before.tobytes()
    if out is None:
        return
    assert out.shape == image.shape and out.dtype == np.float32 and np.isfinite(out).all()
    options = {"severity": level, "spacing_mm": spacing, "seed": seed, "modality": modality_of(name)}
    tensor = apply(name, torch.from_numpy(image).double(), **options)
    assert tensor.dtype == torch.float64 and np.allclose(tensor.numpy(), out)


@pytest.mark.parametrize("name", ORDERED)
@given(case=cases)
@few
def test_damage_grows_with_severity_for_every_case(name, case):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape, name)
    damage, reached = [], []
    for level in range(1, 6):
        out = shifted(name, image, spacing, level=level)
        if out is None:
            continue
        damage.append(nrmse(torch.from_numpy(out), torch.from_numpy(image)))
        reached.append(OPERATORS[name].worse * achieved(name, image, spacing, level)[OPERATORS[name].achieved])
    assert all(a < b for a, b in zip(reached, reached[1:], strict=False)), reached
    if name in RANDOM_GRID or len(damage) < 2:
        return
    assert all(a <= b * 1.001 for a, b in zip(damage, damage[1:], strict=False)), damage
    assert damage[0] < damage[-1]


@given(seed=st.integers(0, 2**31))
@few
def test_severities_share_the_noise_draw(seed):
    image = scan_of(seed, (16, 20, 24))
    air = image == 0
    mild, strong = (apply("rician_noise", image, value=v, seed=seed) for v in (40.0, 5.0))
    ratio = strong[air] / mild[air]  # 8 but for the noise that the image is estimated to have
    assert ratio.std() < 1e-4 * ratio.mean() and 7.5 < ratio.mean() < 9


@given(seed=st.integers(0, 2**31))
@few
def test_severities_share_the_shading_field(seed):
    image = scan_of(seed, (16, 20, 24))
    body = image > 0
    mild, strong = (np.log(apply("bias_field", image, value=v, seed=seed)[body] / image[body]) for v in (10.0, 80.0))
    assert np.corrcoef(mild, strong)[0, 1] > 1 - 1e-6
    other = np.log(apply("bias_field", image, value=80.0, seed=seed + 1)[body] / image[body])
    assert np.corrcoef(other, strong)[0, 1] < 0.999


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_table_is_complete(name):
    op = OPERATORS[name]
    assert op.name == name and op.version >= 1 and len(op.levels) == 5 and op.reference and op.parameter
    assert op.worse in (-1, 1) and (op.displacement is not None) == (op.policy is LabelPolicy.CO_WARP)
    assert op.kind == "parameter" or callable(resolve(op.measure))
    assert callable(resolve(op.function)) and resolve(op.function).__doc__
    assert [value_at(op, level) for level in range(6)] == [op.identity, *op.levels]
    assert all(op.range[0] <= v <= op.range[1] for v in (op.identity, *op.levels))
    assert set(op.requires) <= {"maps", "magnitude", "hu", "spacing", "volume", "channels"}
    for level in (-0.1, 5.1, math.nan):
        with pytest.raises(OperatorError, match="severity from 0 to 5"):
            value_at(op, level)
    if op.monotone:
        steps = np.diff([1 / v if name == "rician_noise" else v for v in (op.identity, *op.levels)])
        assert (steps > 0).all() or (steps < 0).all()
        between = value_at(op, 2.5)
        assert min(op.levels[1:3]) < between < max(op.levels[1:3])
    elif name != "identity":
        with pytest.raises(OperatorError, match="categories"):
            value_at(op, 2.5)


def test_acquisition_keys_have_units_and_defaults_in_range():
    assert set(SEQUENCES) == set(mr.SEQUENCES)  # listed without torch there, with their equations here
    for settings_of in ACQUISITION_KEYS.values():
        for key, setting in settings_of.items():
            if setting.choices:
                assert setting.default in setting.choices
            elif setting.default is not None:
                assert setting.unit and setting.low <= setting.default <= setting.high, key
