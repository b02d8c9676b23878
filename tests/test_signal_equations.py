"""Signal equations against published check values, closed forms and a Bloch simulation; CT and population operators."""

import math

import numpy as np
import pytest
import torch

from shiftbench.data.phantoms.tissues import TISSUES
from shiftbench.errors import OperatorError
from shiftbench.shifts import ct, mr, population

LIVER = {"T1_ms": 586.0, "T2star_ms": 28.0, "PD": 0.72}


def maps_of(*tissues: str, field: int) -> dict[str, np.ndarray]:
    rows = [TISSUES[name] for name in tissues]
    return {
        "T1_ms": np.array([t.t1_ms[field] for t in rows]),
        "T2star_ms": np.array([t.t2star_ms[field] for t in rows]),
        "PD": np.array([t.pd for t in rows]),
    }


def bloch_steady_state(*, t1: float, t2star: float, pd: float, tr: float, te: float, flip_deg: float) -> float:
    """Pulse, free precession and perfect spoiling, repeated to the steady state, with explicit rotations."""
    a = math.radians(flip_deg)
    pulse = np.array([[1, 0, 0], [0, math.cos(a), math.sin(a)], [0, -math.sin(a), math.cos(a)]])
    m = np.array([0.0, 0.0, pd])
    for _ in range(2000):
        excited = pulse @ m
        m = np.array([0.0, 0.0, pd + (excited[2] - pd) * math.exp(-tr / t1)])  # spoiled: no transverse part is left
    excited = pulse @ m
    return math.hypot(excited[0], excited[1]) * math.exp(-te / t2star)


@pytest.mark.parametrize(
    ("flip_deg", "expected"), [(5, (0.92, 0.95)), (10, (1.08, 1.14)), (20, (1.32, 1.40)), (30, (1.43, 1.50))]
)
def test_white_to_grey_matter_contrast_is_as_published_for_spgr_20_4(flip_deg, expected):
    for field in (0, 1):
        white, grey = mr.spgr(maps_of("white_matter", "grey_matter", field=field), tr_ms=20, te_ms=4, flip_deg=flip_deg)
        assert white / grey == pytest.approx(expected[field], abs=0.0101)


@pytest.mark.parametrize("flip_deg", [3, 20, 80, 90, 120])
@pytest.mark.parametrize(("tr", "te"), [(20, 4), (100, 4), (600, 12)])
def test_spgr_is_the_steady_state_of_a_bloch_simulation(flip_deg, tr, te):
    maps = {k: np.array([v]) for k, v in LIVER.items()}
    expected = bloch_steady_state(t1=586, t2star=28, pd=0.72, tr=tr, te=te, flip_deg=flip_deg)
    assert mr.spgr(maps, tr_ms=tr, te_ms=te, flip_deg=flip_deg)[0] == pytest.approx(expected, rel=1e-6)


def test_the_ernst_angle_gives_the_largest_signal():
    maps = {k: np.array([v]) for k, v in LIVER.items()}
    angles = np.arange(1.0, 90.0, 0.25)
    values = [mr.spgr(maps, tr_ms=50, te_ms=4, flip_deg=a)[0] for a in angles]
    assert angles[int(np.argmax(values))] == pytest.approx(mr.ernst_angle_deg(50, 586), abs=0.25)


def test_a_transmit_field_scales_the_flip_angle():
    maps = {k: np.array([v, v]) for k, v in LIVER.items()}
    got = mr.spgr(maps, tr_ms=100, te_ms=4, flip_deg=40, b1=np.array([1.0, 1.5]))
    assert got[1] == pytest.approx(mr.spgr(maps, tr_ms=100, te_ms=4, flip_deg=60)[0], rel=1e-9)


def test_signal_returns_the_kind_of_its_input_with_equal_values():
    acquisition = {"sequence": "spgr", "tr_ms": 100, "te_ms": 4, "flip_deg": 80, "modality": "mr"}
    arrays = {k: np.full((2, 3), v, np.float32) for k, v in LIVER.items()}
    from_numpy = mr.signal(arrays, acquisition)
    from_torch = mr.signal({k: torch.from_numpy(v) for k, v in arrays.items()}, acquisition)
    assert isinstance(from_numpy, np.ndarray) and from_numpy.dtype == np.float32
    assert isinstance(from_torch, torch.Tensor)
    assert np.array_equal(from_numpy, from_torch.numpy())


@pytest.mark.parametrize(
    ("acquisition", "message"),
    [
        ({"sequence": "spgrr", "tr_ms": 100, "te_ms": 4, "flip_deg": 80}, "did you mean 'spgr'"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 4}, "flip_deg"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 120, "flip_deg": 80}, "TE < TR"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 4, "flip_deg": 0}, "flip angle"),
    ],
)
def test_an_impossible_acquisition_is_refused_with_a_remedy(acquisition, message):
    with pytest.raises(OperatorError, match=message):
        mr.signal({k: np.array([v]) for k, v in LIVER.items()}, acquisition)


def test_signal_without_maps_is_refused():
    with pytest.raises(OperatorError, match="T1_ms"):
        mr.signal({"PD": np.ones(1)}, {"sequence": "spgr", "tr_ms": 100, "te_ms": 4, "flip_deg": 80})


def test_ct_numbers_at_120_kvp_are_the_map_and_iodine_grows_at_lower_voltage():
    maps = {"HU": np.array([110.0, -100.0]), "HU_unenhanced": np.array([58.0, -100.0])}
    assert np.array_equal(ct.hu(maps, {"kvp": 120}), maps["HU"])
    at_100 = ct.hu(maps, {"kvp": 100})
    assert at_100[0] == pytest.approx(58 + 52 * 32 / 25) and at_100[1] == -100
    enhancement = [ct.hu(maps, {"kvp": kvp})[0] for kvp in (140, 120, 100, 90, 80, 70)]
    assert np.all(np.diff(enhancement) > 0)


@pytest.mark.parametrize("acquisition", [{"kvp": 30}, {"kvp": 200}])
def test_a_tube_voltage_outside_the_table_is_refused(acquisition):
    with pytest.raises(OperatorError, match="70 to 140"):
        ct.hu({"HU": np.zeros(1), "HU_unenhanced": np.zeros(1)}, acquisition)


def test_another_voltage_without_the_unenhanced_map_is_refused():
    with pytest.raises(OperatorError, match="HU_unenhanced"):
        ct.hu({"HU": np.zeros(1)}, {"kvp": 100})


@pytest.mark.parametrize("name", sorted(population.POPULATIONS))
def test_a_population_operator_sets_its_own_key_only(name):
    operator = population.POPULATIONS[name]
    base = {"lesion_load": 1.0, "habitus_mm": 0.0}
    for level, value in enumerate(operator.levels, start=1):
        assert operator.range[0] <= value <= operator.range[1]
        assert population.resolve(base, name, level=level) == {**base, operator.key: value}
    assert population.resolve(base, name, level=0) == base
    if operator.monotone:
        assert np.all(np.diff(operator.levels) > 0)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lesion_laod", {"level": 1}),
        ("habitus", {}),
        ("habitus", {"level": 1, "value": 3.0}),
        ("habitus", {"level": 6}),
        ("habitus", {"value": -1.0}),
        ("habitus", {"value": math.nan}),
    ],
)
def test_a_wrong_population_operator_level_or_value_is_refused(name, given):
    with pytest.raises(OperatorError):
        population.resolve({}, name, **given)
