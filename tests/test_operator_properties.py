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

IMAGE_OPERATORS = sorted(name for name, op in OPERATORS.items() if op.kind == "image")
ORDERED = sorted(name for name in IMAGE_OPERATORS if OPERATORS[name].monotone)
GRIDS = [((40, 48), (1.0, 1.0)), ((18, 40, 36), (2.0, 1.0, 1.0)), ((40, 24, 20), (1.0, 0.9, 1.1))]
cases = st.tuples(st.integers(0, 2**31), st.sampled_from(GRIDS))
few = settings(max_examples=8, deadline=None, derandomize=True)


def scan_of(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 magnitude image (*s): an ellipsoid of random blobs and fine texture in air, without noise."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = sum(a**2 for a in axes) < rng.uniform(0.6, 0.95)
    image = np.full(shape, 300.0)
    for _ in range(6):
        centre, radius = rng.uniform(-0.6, 0.6, len(shape)), rng.uniform(0.15, 0.4)
        blob = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2
        image[blob] = rng.uniform(150, 500)
    texture = sum(np.sin(a * rng.uniform(4, 12) + rng.uniform(0, 6)) for a in axes)
    return (body * (image + 8 * texture)).astype(np.float32)


def shifted(name, image, spacing, *, level, seed=0):
    """The image at a severity, or None where the scan is beyond it already or has no such axis."""
    if name == "slice_thickness" and image.ndim == 2:
        with pytest.raises(OperatorError, match="no slice axis"):
            apply(name, image, severity=level, spacing_mm=spacing, seed=seed)
        return None
    try:
        return apply(name, image, severity=level, spacing_mm=spacing, seed=seed)
    except NotApplicable:
        return None


def achieved(name, image, spacing, level):
    anatomy = Anatomy("a", "a", Geometry(spacing), np.zeros(image.shape, np.int16), image=image[None])
    image, measured = acquire(anatomy, None, {}, [Step(name, value_at(OPERATORS[name], level))], key=(0, "", "a"))
    return measured


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases)
@few
def test_severity_zero_is_the_identity_to_the_bit(name, case):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape)
    same = apply(name, image, severity=0, spacing_mm=spacing, seed=seed)
    assert same.tobytes() == image.tobytes() and same is not image
    tensor = torch.from_numpy(image)
    assert torch.equal(apply(name, tensor, severity=0, spacing_mm=spacing, seed=seed), tensor)


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases, level=st.integers(1, 5))
@few
def test_one_key_gives_one_result_in_any_order(name, case, level):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape)
    first = shifted(name, image, spacing, level=level, seed=seed)
    for other in IMAGE_OPERATORS:  # draws in between, and another case, change nothing
        shifted(other, image + 1, spacing, level=1, seed=seed + 1)
    again = shifted(name, image, spacing, level=level, seed=seed)
    assert (first is None) == (again is None)
    assert first is None or first.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@given(case=cases, level=st.integers(1, 5))
@few
def test_shape_and_dtype_are_kept_and_the_input_is_left_alone(name, case, level):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape)
    before = image.copy()
    out = shifted(name, image, spacing, level=level, seed=seed)
    assert image.tobytes() == before.tobytes()
    if out is None:
        return
    tensor = torch.from_numpy(image.copy())
    result = apply(name, tensor, severity=level, spacing_mm=spacing, seed=seed)
    result += 1  # the result is no view of the input
    assert tensor.numpy().tobytes() == before.tobytes()
    assert out.shape == shape and out.dtype == np.float32 and np.isfinite(out).all()
    with_channel = apply(name, image[None], severity=level, spacing_mm=spacing, seed=seed)
    assert with_channel.shape == (1, *shape) and with_channel[0].tobytes() == out.tobytes()
    tensor = apply(name, torch.from_numpy(image).double(), severity=level, spacing_mm=spacing, seed=seed)
    assert tensor.dtype == torch.float64 and np.allclose(tensor.numpy(), out)


@pytest.mark.parametrize("name", ORDERED)
@given(case=cases)
@few
def test_damage_grows_with_severity_for_every_case(name, case):
    seed, (shape, spacing) = case
    image = scan_of(seed, shape)
    quantity = OPERATORS[name].achieved
    damage, reached = [], []
    for level in range(1, 6):
        out = shifted(name, image, spacing, level=level)
        if out is None:
            continue
        damage.append(nrmse(torch.from_numpy(out), torch.from_numpy(image)))
        measured = achieved(name, image, spacing, level)
        reached.append(OPERATORS[name].worse * measured[quantity])
    if not damage:
        assert name == "slice_thickness" and len(shape) == 2  # refused for every 2-D image
        return
    assert len(damage) >= 4
    assert all(a < b for a, b in zip(reached, reached[1:], strict=False)), reached
    if name == "slice_thickness":  # one slice grid may suit an image better than a finer one: the order is that of FWHM
        assert damage[0] < damage[-1]
    else:
        assert all(a <= b for a, b in zip(damage, damage[1:], strict=False)) and damage[0] < damage[-1], damage


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
