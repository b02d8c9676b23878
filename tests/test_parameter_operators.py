"""Operators on acquisition parameters, the acquisition tables they change, protocols and vendors."""

import math

import numpy as np
import pytest
import torch

from shiftbench.data.phantoms.tissues import TISSUES, at_field
from shiftbench.errors import NotApplicable, OperatorError, SpecError
from shiftbench.shifts import ct, mr, parameters
from shiftbench.shifts.operator import resolve
from shiftbench.shifts.presets import PRESETS, SEQUENCES, SWAPS, VENDORS
from shiftbench.shifts.settings import (
    ACQUISITION_KEYS,
    PHASES,
    SEQUENCE_KEYS,
    acquisition_defaults,
    check_acquisition,
)
from shiftbench.shifts.table.mr import ROWS

PARAMETERS = {row.name: row for row in ROWS if row.kind == "parameter"}
FITTING = {  # a source on which every level of the operator is defined
    "flip_angle": "brain_t1_spgr",
    "repetition_time": "brain_t1_spgr",
    "echo_time": "abdomen_t1",
    "echo_time_short": "brain_t2",
    "inversion_time": "brain_flair",
    "contrast_agent": "abdomen_t1",
}


def source(name: str) -> dict:
    return check_acquisition({"preset": FITTING.get(name, "brain_t1_spgr")})


def brain() -> dict[str, torch.Tensor]:
    rows = [TISSUES[name] for name in ("csf", "grey_matter", "white_matter", "blood_venous", "fat")]
    columns = {
        "T1_ms": [t.t1_ms[0] for t in rows],
        "T2_ms": [t.t2_ms[0] for t in rows],
        "T2star_ms": [t.t2star_ms[0] for t in rows],
        "PD": [t.pd for t in rows],
        "ADC": [t.adc for t in rows],
        "GD": [t.gd for t in rows],
        "FAT": [t.fat for t in rows],
    }
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_every_level_is_an_acquisition_that_has_a_signal(name):
    row, nominal = PARAMETERS[name], source(name)
    for value in row.levels:
        table = resolve(row.function)(nominal, value)
        assert row.measure in table
        assert check_acquisition(table) == table  # complete, and of keys and values that a scenario may give
        signal = mr.signal(brain(), table)
        assert torch.isfinite(signal).all() and (signal >= 0).all()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_identity_changes_nothing_and_the_source_is_left_alone(name):
    row, nominal = PARAMETERS[name], source(name)
    kept = dict(nominal)
    table = resolve(row.function)(nominal, row.identity)
    assert {k: v for k, v in table.items() if k != "relaxation_t"} == nominal
    assert parameters.relaxation_field_t(table) == 1.5
    resolve(row.function)(nominal, row.levels[-1])
    assert nominal == kept


@pytest.mark.parametrize("name", sorted(n for n, row in PARAMETERS.items() if row.monotone))
def test_what_is_achieved_moves_one_way_with_severity(name):
    row, nominal = PARAMETERS[name], source(name)
    reached = [resolve(row.function)(nominal, value)[row.measure] for value in (row.identity, *row.levels)]
    assert all(row.worse * (b - a) > 0 for a, b in zip(reached, reached[1:], strict=False)), reached
    if row.tolerance is not None:
        assert reached[1:] == pytest.approx(list(row.levels), rel=row.tolerance)


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("flip_angle", "flip_deg", (17, 14, 10, 7, 5)),
        ("echo_time_short", "te_ms", (75, 60, 45, 30, 15)),
        ("inversion_time", "ti_ms", (2450, 2400, 2300, 2150, 1900)),
        ("repetition_time", "tr_ms", (25, 30, 40, 60, 100)),
        ("contrast_agent", "gd_mmol", (0.05, 0.1, 0.2, 0.5, 1.0)),
    ],
)
def test_levels_are_those_of_the_catalogue(name, key, expected):
    row = PARAMETERS[name]
    assert [resolve(row.function)(source(name), value)[key] for value in row.levels] == pytest.approx(list(expected))


def test_missing_the_null_of_cerebrospinal_fluid_brings_it_back_more_and_more():
    row, flair = PARAMETERS["inversion_time"], source("inversion_time")
    csf = [float(mr.signal(brain(), {**flair, **{"ti_ms": 2467.2 + v}})[0]) for v in (row.identity, *row.levels)]
    assert all(a < b for a, b in zip(csf, csf[1:], strict=False))


def test_the_field_takes_everything_along_at_once():
    nominal = {**check_acquisition({"b1_percent": 5.0, "fat_shift_mm": 1.5}), "relaxation_t": 0.5}
    at_three = parameters.field_strength(nominal, 3.0)
    assert at_three["field_t"] == 3 and parameters.relaxation_field_t(at_three) == 3
    assert at_three["snr"] == 2 * nominal["snr"] and at_three["fat_shift_mm"] == 3.0
    assert at_three["b1_percent"] == pytest.approx(5 + 3 * (9 - 2.25))
    low = parameters.field_strength(nominal, 0.3)
    assert low["b1_percent"] == 0 and low["snr"] == pytest.approx(nominal["snr"] / 5)


def test_the_ablations_of_the_field_take_one_thing_each():
    nominal = check_acquisition({"b1_percent": 5.0, "fat_shift_mm": 1.5})
    snr, relaxation = parameters.field_snr(nominal, 3.0), parameters.field_relaxation(nominal, 3.0)
    assert {k for k in snr if snr[k] != nominal[k]} == {"snr"} and snr["snr"] == 2 * nominal["snr"]
    assert parameters.field_relaxation(nominal, nominal["field_t"]) == nominal
    assert set(relaxation) - set(nominal) == {"relaxation_t"} and parameters.relaxation_field_t(relaxation) == 3
    assert {k: v for k, v in relaxation.items() if k in nominal} == nominal


def test_the_field_changes_t1_and_with_it_the_contrast():  # D26: not a mere gain
    white, grey = TISSUES["white_matter"], TISSUES["grey_matter"]

    def contrast(acquisition) -> float:
        field = parameters.relaxation_field_t(acquisition)
        times = {
            name: torch.tensor([float(at_field(*np.array(getattr(t, attribute), float), field)) for t in (white, grey)])
            for name, attribute in (("T1_ms", "t1_ms"), ("T2_ms", "t2_ms"), ("T2star_ms", "t2star_ms"))
        }
        signal = mr.signal({**times, "PD": torch.tensor([white.pd, grey.pd])}, acquisition)
        return float(signal[0] / signal[1])

    nominal = check_acquisition({"preset": "brain_t1_spgr"})
    assert contrast(nominal) == pytest.approx(1.32, abs=0.01)
    assert contrast(parameters.field_strength(nominal, 3.0)) == pytest.approx(1.40, abs=0.01)
    assert contrast(parameters.field_relaxation(nominal, 3.0)) == pytest.approx(1.40, abs=0.01)
    assert contrast(parameters.field_snr(nominal, 3.0)) == contrast(nominal)


def test_swapping_the_sequence_takes_over_its_whole_protocol_and_keeps_the_scanner():
    nominal = check_acquisition({"preset": "brain_t1_spgr", "snr": 50, "field_t": 3.0, "vendor": "C"})
    order = {}
    for value, name in enumerate(SWAPS, start=1):
        table = parameters.sequence_swap(nominal, value)
        assert {k: table[k] for k in PRESETS[name]} == PRESETS[name]
        assert {k for k in table if k in SEQUENCE_KEYS} <= set(SEQUENCES[table["sequence"]])
        assert all(table[k] == nominal[k] for k in ("snr", "field_t", "vendor", "bias_percent", "pixel_factor"))
        signal = mr.signal(brain(), table)
        order[name] = [("csf", "grey", "white")[i] for i in torch.argsort(signal[:3])]
    assert order["brain_t1_mprage"] == ["csf", "grey", "white"]
    assert order["brain_t2"] == ["white", "grey", "csf"] and order["brain_pd"] == ["csf", "white", "grey"]
    assert order["brain_flair"] == ["csf", "white", "grey"]
    assert order["brain_dwi"][0] == "csf"


def test_a_vendor_is_the_same_scanner_wherever_one_comes_from():
    a = check_acquisition({"pixel_mm": 1.0})
    direct = parameters.vendor(a, 3)
    by_way = parameters.vendor(parameters.vendor(a, 4), 3)
    assert direct["vendor"] == by_way["vendor"] == "D"
    for key in ("snr", "bias_percent", "filter_gain", "gain", "pixel_factor", "pixel_mm"):
        assert by_way[key] == pytest.approx(direct[key]), key
        assert direct[key] != a[key], key
    from_source = check_acquisition({"vendor": "D"})
    assert all(from_source[k] == pytest.approx(direct[k]) for k in ("snr", "bias_percent", "filter_gain", "gain"))
    assert check_acquisition({"vendor": "D", "snr": 20})["snr"] == 20  # what is given is not changed


def test_every_vendor_differs_from_every_other_in_more_than_one_thing():
    for i, one in enumerate(VENDORS.values()):
        for other in list(VENDORS.values())[i + 1 :]:
            assert sum(x != y for x, y in zip(one, other, strict=True)) >= 2


@pytest.mark.parametrize(
    ("function", "given", "value"),
    [
        (parameters.b1_field, {"b1_percent": 30.0}, 20.0),
        (parameters.tissue_jitter, {"tissue_jitter_percent": 10.0}, 5.0),
        (parameters.chemical_shift, {"fat_shift_mm": 2.0}, 1.0),
    ],
)
def test_a_source_that_is_worse_already_is_not_applicable(function, given, value):
    with pytest.raises(NotApplicable, match="ask for more"):
        function(check_acquisition(given), value)


@pytest.mark.parametrize(
    ("function", "preset", "message"),
    [
        (parameters.flip_angle, "brain_t2", "no flip_deg"),
        (parameters.echo_time, "cardiac_cine", "no te_ms"),
        (parameters.inversion_time, "brain_t2", "no ti_ms"),
    ],
)
def test_a_sequence_without_the_parameter_is_refused(function, preset, message):
    with pytest.raises(OperatorError, match=message):
        function(check_acquisition({"preset": preset}), 50.0)


@pytest.mark.parametrize("function", [parameters.vendor, parameters.sequence_swap])
@pytest.mark.parametrize("value", [1.5, 6.0, -1.0])
def test_a_value_that_is_no_category_is_refused(function, value):
    with pytest.raises(OperatorError, match="whole number from 1 to 5"):
        function(check_acquisition({}), value)


def tissue_table(organs: np.ndarray) -> dict[str, np.ndarray]:
    n = len(organs)
    table = {
        f"{name}_{field}T": np.full(n, start * scale, np.float32)
        for name, start in (("T1_ms", 800.0), ("T2_ms", 80.0), ("T2star_ms", 40.0))
        for field, scale in (("1.5", 1.0), ("3", 1.2))
    }
    return {**table, "PD": np.full(n, 0.6, np.float32), "HU_delayed": np.full(n, 50.0), "fine_label": organs}


def test_jitter_is_shared_by_the_tissues_of_an_organ_and_by_both_fields():  # D27
    values = tissue_table(np.array([0, 3, 3, 7], np.int16))
    got = parameters.jittered(values, 10.0, np.random.default_rng(1))
    for name in ("T1_ms_1.5T", "T2_ms_1.5T", "T2star_ms_3T", "PD"):
        assert got[name][1] == got[name][2] != got[name][3] and got[name].dtype == np.float32
    assert np.allclose(got["T1_ms_3T"] / got["T1_ms_1.5T"], 1.2) and np.allclose(
        got["T2star_ms_3T"] * 2, got["T2_ms_3T"]
    )
    assert np.array_equal(got["HU_delayed"], values["HU_delayed"])
    assert values["T1_ms_1.5T"][1] == 800 and np.all(got["T2star_ms_1.5T"] <= got["T2_ms_1.5T"])


def test_jitter_has_the_spread_asked_for_and_scales_one_draw():
    values = tissue_table(np.arange(250))
    factors = {
        percent: parameters.jittered(values, percent, np.random.default_rng(2))["T1_ms_1.5T"].astype(float) / 800
        for percent in (5.0, 25.0)
    }
    many = np.concatenate(
        [parameters.jittered(values, 25.0, np.random.default_rng(s))["T2_ms_3T"] / 96 for s in range(40)]
    )
    assert many.mean() == pytest.approx(1, abs=0.01) and many.std() == pytest.approx(0.25, rel=0.05)
    mild, strong = (np.log(factors[p]) for p in (5.0, 25.0))
    assert np.corrcoef(mild, strong)[0, 1] > 0.999999
    same = parameters.jittered(values, 0.0, np.random.default_rng(2))
    assert all(np.array_equal(same[name], values[name]) for name in values)


def test_proton_density_stays_below_that_of_water_and_jitter_needs_organs():
    values = {**tissue_table(np.arange(200)), "PD": np.full(200, 0.95, np.float32)}
    assert parameters.jittered(values, 25.0, np.random.default_rng(0))["PD"].max() == 1
    del values["fine_label"]
    with pytest.raises(OperatorError, match="fine_label"):
        parameters.jittered(values, 5.0, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_protocol_is_complete_and_checking_it_again_changes_nothing(name):
    table = check_acquisition({"preset": name})
    assert "preset" not in table and check_acquisition(table) == table
    assert {k: table[k] for k in PRESETS[name]} == PRESETS[name]
    changed = check_acquisition({"preset": name, "snr": 12.0, "field_t": 3.0})
    assert changed == {**table, "snr": 12.0, "field_t": 3.0}


def test_an_acquisition_that_says_nothing_is_what_it_was():
    table = check_acquisition({})
    old = {"sequence": "spgr", "field_t": 1.5, "tr_ms": 150, "te_ms": 4.6, "flip_deg": 80, "b1_percent": 0, "snr": 35}
    assert {k: table[k] for k in old} == old and table["bias_percent"] == 10
    assert table == acquisition_defaults()


def test_each_sequence_has_its_own_defaults_of_known_keys_and_their_equation():
    assert set(SEQUENCES) == set(mr.SEQUENCES)
    for name, keys in SEQUENCES.items():
        assert set(keys) <= set(SEQUENCE_KEYS) <= set(ACQUISITION_KEYS["mr"])
        equation = mr.SEQUENCES[name]
        assert set(keys) <= {*equation.required, *equation.optional}
        assert {k for k in equation.required if k in SEQUENCE_KEYS} <= {k for k, v in keys.items() if v is not None}
        for key, value in keys.items():
            assert value is None or SEQUENCE_KEYS[key].low <= value <= SEQUENCE_KEYS[key].high
    assert set(PHASES) == set(ct.PHASES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ti_ms": 900}, "'spgr' does not use ti_ms"),
        ({"sequence": "fse", "flip_deg": 90}, "'fse' does not use flip_deg"),
        ({"sequence": "bssfp", "te_ms": 2}, "'bssfp' does not use te_ms"),
        ({"sequence": "mprage", "b_s_mm2": 500}, "does not use b_s_mm2"),
        ({"preset": "brain_flair", "sequence": "spgr"}, "is of sequence 'flair'"),
        ({"preset": "brain_flare"}, "did you mean 'brain_flair'"),
        ({"preset": "brain_flair", "flip_deg": 20}, "does not use flip_deg"),
        ({"modality": "ct", "preset": "brain_flair"}, "preset"),
        ({"sequence": "fse", "etl": 8.5}, "whole number"),
        ({"renoise": True}, "whole number"),
        ({"vendor": "G"}, "known: A, B"),
        ({"modality": "ct", "phase": "venous"}, "portal_venous"),
        ({"modality": "ct", "kernel_mtf50_lp_mm": 3}, "0.1 to 1.2 lp/mm"),
        ({"modality": "ct", "tr_ms": 3}, "unknown key 'tr_ms'"),
        ({"flip_deg": math.nan}, "0.5 to 180 degrees"),
    ],
)
def test_an_acquisition_table_that_makes_no_sense_is_refused(table, message):
    with pytest.raises(SpecError, match=message):
        check_acquisition(table)
