"""Signal equations against published check values and closed forms; CT and population operators."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from shiftbench.data.phantoms.tissues import TISSUES
from shiftbench.errors import OperatorError
from shiftbench.shifts import ct, mr, mr_gradient, mr_spin, population
from shiftbench.shifts.presets import PRESETS
from shiftbench.shifts.settings import check_acquisition

LIVER = {"T1_ms": 586.0, "T2_ms": 46.0, "T2star_ms": 28.0, "PD": 0.72, "ADC": 1.1, "FAT": 0.2, "GD": 0.5}
LESION = (1150.0, 1400.0), (165.0, 150.0), 0.81  # T1, T2 at 1.5 and 3 T and PD of a lesion of multiple sclerosis
WHITE_TO_GREY = [  # acquisition, at 1.5 T, at 3 T
    ({"sequence": "spgr", "tr_ms": 20, "te_ms": 4, "flip_deg": 5}, 0.92, 0.95),
    ({"sequence": "spgr", "tr_ms": 20, "te_ms": 4, "flip_deg": 10}, 1.08, 1.14),
    ({"sequence": "spgr", "tr_ms": 20, "te_ms": 4, "flip_deg": 20}, 1.32, 1.40),
    ({"sequence": "spgr", "tr_ms": 20, "te_ms": 4, "flip_deg": 30}, 1.43, 1.50),
    ({"sequence": "se", "tr_ms": 500, "te_ms": 12}, 1.29, 1.36),
    ({"sequence": "se", "tr_ms": 4000, "te_ms": 90}, 0.65, 0.62),
    ({"sequence": "flair", "tr_ms": 9000, "te_ms": 120, "ti_ms": 2500}, 0.73, 0.78),
]


def maps_of(*tissues: str, field: int = 0) -> dict[str, torch.Tensor]:
    rows = [TISSUES[name] for name in tissues]
    columns = {
        "T1_ms": [t.t1_ms[field] for t in rows],
        "T2_ms": [t.t2_ms[field] for t in rows],
        "T2star_ms": [t.t2star_ms[field] for t in rows],
        "PD": [t.pd for t in rows],
        "ADC": [t.adc for t in rows],
    }
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def one(values: Mapping[str, float] = LIVER, n: int = 1) -> dict[str, torch.Tensor]:
    return {name: torch.full((n,), value, dtype=torch.float64) for name, value in values.items()}


@pytest.mark.parametrize(("acquisition", "low", "high"), WHITE_TO_GREY)
def test_white_to_grey_matter_contrast_is_as_published(acquisition, low, high):
    for field, expected in enumerate((low, high)):
        white, grey = mr.signal(maps_of("white_matter", "grey_matter", field=field), acquisition)
        assert float(white / grey) == pytest.approx(expected, abs=0.0101)


def test_a_low_flip_angle_inverts_the_contrast_of_white_and_grey_matter():
    maps = maps_of("white_matter", "grey_matter")
    contrast = [mr.signal(maps, {**PRESETS["brain_t1_spgr"], "flip_deg": a}) for a in (20.0, 5.0)]
    assert contrast[0][0] > contrast[0][1] and contrast[1][0] < contrast[1][1]


def test_flair_nulls_cerebrospinal_fluid_and_a_missed_inversion_time_brings_it_back():
    flair = {"sequence": "flair", "tr_ms": 9000, "te_ms": 120, "ti_ms": 2500}
    grey, csf = mr.signal(maps_of("grey_matter", "csf"), flair)
    assert float(grey / csf) == pytest.approx(22, abs=0.5)
    grey, csf = mr.signal(maps_of("grey_matter", "csf"), {**flair, "ti_ms": 2200})
    assert float(grey / csf) == pytest.approx(2.3, abs=0.05)
    assert mr.transverse(maps_of("csf"), {**flair, "ti_ms": 2200}) < 0  # upside down before detection
    assert mr.transverse(maps_of("csf"), flair) > 0


@pytest.mark.parametrize(("field", "expected"), [(0, 2.25), (1, 2.11)])
def test_a_lesion_is_bright_on_flair(field, expected):
    t1, t2, pd = LESION
    flair = {"sequence": "flair", "tr_ms": 9000, "te_ms": 120, "ti_ms": 2500}
    lesion = mr.signal(one({"T1_ms": t1[field], "T2_ms": t2[field], "PD": pd}), flair)
    white = mr.signal(maps_of("white_matter", field=field), flair)
    assert float(lesion / white) == pytest.approx(expected, rel=0.15)  # of a range of lesions


@pytest.mark.parametrize(("tr", "expected"), [(5000, 1782), (9000, 2467), (11000, 2651)])
def test_the_null_of_cerebrospinal_fluid_is_as_published(tr, expected):
    assert mr_spin.null_ti_ms(4300, tr, 120) == pytest.approx(expected, abs=0.5)
    nulled = {"sequence": "ir", "tr_ms": tr, "te_ms": 120, "ti_ms": mr_spin.null_ti_ms(4300, tr, 120)}
    assert float(mr.signal(maps_of("csf"), nulled)) < 2e-4


@pytest.mark.parametrize(("field", "expected"), [(0, 238), (1, 265)])
def test_stir_nulls_fat(field, expected):
    t1 = TISSUES["fat"].t1_ms[field]
    assert mr_spin.null_ti_ms(t1, 1e9) == pytest.approx(expected, abs=0.5)
    fat, liver = mr.signal(maps_of("fat", "liver", field=field), {**PRESETS["brain_stir"], "ti_ms": expected})
    assert float(fat) < 0.01 * float(liver)


def test_inversion_recovery_with_a_whole_inversion_is_the_equation_of_the_textbooks():
    maps = one()
    got = mr_spin.ir(maps, tr_ms=9000, te_ms=20, ti_ms=800)
    t1, t2, pd = LIVER["T1_ms"], LIVER["T2_ms"], LIVER["PD"]
    expected = pd * (1 - 2 * math.exp(-800 / t1) + math.exp(-8980 / t1)) * math.exp(-20 / t2)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_a_train_of_one_echo_is_a_spin_echo():
    for b1 in (1.0, 0.8):
        fse = mr_spin.fse(one(), tr_ms=800, te_ms=30, etl=1, esp_ms=30, b1=b1)
        assert float(fse) == pytest.approx(float(mr_spin.se(one(), tr_ms=800, te_ms=30, b1=b1)), rel=1e-12)


@pytest.mark.parametrize("sequence", ["se", "fse", "ir", "flair", "stir", "dwi"])
def test_spin_echoes_decay_with_t2_and_never_with_t2star(sequence):  # D26
    acquisition = check_acquisition({"sequence": sequence})
    assert "T2star_ms" not in mr.needed_maps(acquisition)
    same = mr.signal({**one(), "T2star_ms": torch.ones(1).double()}, acquisition)
    assert torch.equal(same, mr.signal(one(), acquisition))
    assert float(mr.signal({**one(), "T2_ms": torch.full((1,), 80.0).double()}, acquisition)) > 1.05 * float(same)


def test_diffusion_weighting_is_exponential_and_kurtosis_lifts_its_tail():
    dwi = {"sequence": "dwi", "tr_ms": 6000, "te_ms": 80, "b_s_mm2": 1000}
    plain = mr.signal(one(), {**dwi, "sequence": "se"})
    assert float(mr.signal(one(), dwi) / plain) == pytest.approx(math.exp(-1.1), rel=1e-9)
    lifted = mr.signal(one(), {**dwi, "kurtosis": 0.9})
    assert float(lifted / plain) == pytest.approx(math.exp(-1.1 + 1.1**2 * 0.9 / 6), rel=1e-9)
    tail = [float(mr.signal(one(), {**dwi, "kurtosis": 1.0, "b_s_mm2": b})) for b in (2000, 4000, 8000)]
    assert tail[0] > tail[1] == tail[2]  # the expansion would rise again


@pytest.mark.parametrize(("field", "opposed"), [(1.5, 2.303), (3.0, 1.151)])
def test_water_and_fat_cancel_in_opposed_phase_and_add_in_phase(field, opposed):
    assert mr_gradient.fat_shift_hz(field) == pytest.approx(217.1 * field / 1.5, abs=0.1)
    dixon = {"sequence": "dixon", "tr_ms": 150, "flip_deg": 70, "field_t": field}
    for te, expected in ((opposed, 0.6), (2 * opposed, 1.0), (opposed / 2, math.hypot(0.8, 0.2))):
        both = mr.signal(one(), {**dixon, "te_ms": te, "sequence": "spgr"})
        assert float(mr.signal(one(), {**dixon, "te_ms": te}) / both) == pytest.approx(expected, abs=1e-3)


def test_the_rim_between_water_and_fat_is_dark_in_opposed_phase_once_a_voxel_is_averaged():
    maps = {**one(n=2), "FAT": torch.tensor([0.0, 1.0]).double()}
    opposed = {"sequence": "dixon", "tr_ms": 150, "te_ms": 2.303, "flip_deg": 70, "field_t": 1.5}
    assert float(mr.transverse(maps, opposed).mean().abs()) < 0.01 * float(mr.signal(maps, opposed).mean())


def test_balanced_ssfp_is_dark_at_half_a_turn_per_repetition_and_periodic():
    frequencies = torch.tensor([0.0, 1000 / (2 * 4.0), 1000 / 4.0]).double()
    got = mr.signal(one(n=3), {"sequence": "bssfp", "tr_ms": 4.0, "flip_deg": 60, "df_hz": frequencies})
    assert float(got[1]) < 0.2 * float(got[0]) and float(got[2]) == pytest.approx(float(got[0]), rel=1e-9)
    e1, e2, a = math.exp(-4 / 586), math.exp(-4 / 46), math.radians(60)
    closed = 0.72 * math.sin(a) * (1 - e1) / (1 - (e1 - e2) * math.cos(a) - e1 * e2) * math.exp(-2 / 46)
    assert float(got[0]) == pytest.approx(closed, rel=1e-9)


def test_the_ernst_angle_gives_the_largest_signal():
    angles = np.arange(1.0, 90.0, 0.25)
    values = [float(mr_gradient.spgr(one(), tr_ms=50, te_ms=4, flip_deg=a)) for a in angles]
    assert angles[int(np.argmax(values))] == pytest.approx(mr_gradient.ernst_angle_deg(50, 586), abs=0.25)


@pytest.mark.parametrize("sequence", ["spgr", "dixon", "mprage", "bssfp"])
def test_a_transmit_field_scales_the_flip_angle_of_gradient_echoes(sequence):
    acquisition = {**check_acquisition({"sequence": sequence}), "flip_deg": 40}
    got = mr.signal(one(n=2), {**acquisition, "b1": torch.tensor([1.0, 1.5]).double()})
    assert float(got[1]) == pytest.approx(float(mr.signal(one(), {**acquisition, "flip_deg": 60})), rel=1e-9)
    assert float(got[0]) == pytest.approx(float(mr.signal(one(), acquisition)), rel=1e-9)


@pytest.mark.parametrize("sequence", ["se", "fse", "flair", "dwi"])
def test_a_transmit_field_off_the_nominal_one_costs_a_spin_echo_signal_on_either_side(sequence):
    acquisition = {**check_acquisition({"sequence": sequence}), "b1": torch.tensor([0.8, 1.0, 1.2]).double()}
    low, right, high = (float(v) for v in mr.signal(one(n=3), acquisition))
    assert low < 0.97 * right and high < 0.97 * right


def test_gadolinium_shortens_t1_and_t2_in_proportion_to_its_concentration():
    maps = one()
    weighted = {**PRESETS["abdomen_t1"], "field_t": 1.5, "gd_mmol": 2.0}
    t1 = 1 / (1 / 586 + 5.2 * 2.0 * 0.5 / 1000)
    t2star = 1 / (1 / 28 + 6.1 * 2.0 * 0.5 / 1000)
    expected = mr.signal(one({**LIVER, "T1_ms": t1, "T2star_ms": t2star}), PRESETS["abdomen_t1"])
    assert float(mr.signal(maps, weighted)) == pytest.approx(float(expected), rel=1e-9)
    assert float(mr.signal(maps, weighted)) > 1.2 * float(mr.signal(maps, {**weighted, "gd_mmol": 0.0}))
    assert float(maps["T1_ms"]) == 586  # the maps of the caller are left alone


def test_fat_suppression_takes_its_share_of_the_fat():
    full = mr.signal(one(), PRESETS["abdomen_t1"])
    got = mr.signal(one(), {**PRESETS["abdomen_t1"], "fat_sat_percent": 90.0})
    assert float(got / full) == pytest.approx(1 - 0.9 * 0.2, rel=1e-9)


def test_the_echo_train_weights_k_space_by_its_decay_with_the_effective_echo_at_the_centre():
    weights = mr_spin.fse_psf(80.0, 10.0, 8, 64, te_ms=40.0)
    assert weights.shape == (64,) and weights[0] == 1
    echoes = torch.round(4 - torch.log(weights) * -8)  # echo number = 4 - T2 / ESP ln w
    assert sorted(set((4 - 8 * torch.log(weights)).round().int().tolist())) == list(range(1, 9))
    assert echoes.unique(return_counts=True)[1].tolist() == [8] * 8  # as many lines for each echo
    near = torch.cat([weights[-4:], weights[:4]])
    assert torch.equal(near, torch.ones(8))  # the band about the centre is of one echo
    blurred = [float(mr_spin.fse_psf(t2, 10.0, 8, 64, te_ms=40.0).std()) for t2 in (500.0, 80.0, 40.0)]
    assert blurred[0] < blurred[1] < blurred[2]


def test_signal_returns_the_kind_of_its_input_with_equal_values():
    arrays = {k: np.full((2, 3), v, np.float32) for k, v in LIVER.items()}
    for sequence in mr.SEQUENCES:
        acquisition = check_acquisition({"sequence": sequence})
        from_numpy = mr.signal(arrays, acquisition)
        from_torch = mr.signal({k: torch.from_numpy(v) for k, v in arrays.items()}, acquisition)
        assert isinstance(from_numpy, np.ndarray) and from_numpy.dtype == np.float32 and from_numpy.shape == (2, 3)
        assert isinstance(from_torch, torch.Tensor)
        assert np.array_equal(from_numpy, from_torch.numpy())


@pytest.mark.parametrize("sequence", sorted(mr.SEQUENCES))
def test_single_precision_and_a_uniform_transmit_map_change_nothing(sequence):
    acquisition = check_acquisition({"sequence": sequence})
    exact = mr.signal(one(), acquisition)
    single = {name: values.float() for name, values in one().items()}
    assert float(mr.signal(single, acquisition)) == pytest.approx(float(exact), rel=2e-4)
    uniform = mr.signal(one(), {**acquisition, "b1": torch.ones(1).double()})
    assert float(uniform) == pytest.approx(float(exact), rel=1e-9)
    kept = {name: values.clone() for name, values in single.items()}
    mr.signal(single, {**acquisition, "gd_mmol": 0.5, "fat_sat_percent": 50.0})
    assert all(torch.equal(kept[name], values) for name, values in single.items())


class Lazy(Mapping):
    """Maps that are made when they are asked for, as those of a phantom."""

    def __init__(self):
        self.made: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        self.made.append(name)
        return torch.full((1,), LIVER[name])

    def __iter__(self) -> Iterator[str]:
        return iter(LIVER)

    def __len__(self) -> int:
        return len(LIVER)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_protocol_makes_each_map_that_it_reads_once_and_no_other(name):
    maps, acquisition = Lazy(), check_acquisition({"preset": name})
    got = mr.signal(maps, acquisition)
    assert sorted(maps.made) == sorted(mr.needed_maps(acquisition))
    assert torch.isfinite(got).all() and 0 < float(got) < 1


@pytest.mark.parametrize(
    ("acquisition", "message"),
    [
        ({"sequence": "spgrr", "tr_ms": 100, "te_ms": 4, "flip_deg": 80}, "did you mean 'spgr'"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 4}, "flip_deg"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 120, "flip_deg": 80}, "TE < TR"),
        ({"sequence": "spgr", "tr_ms": 100, "te_ms": 4, "flip_deg": 0}, "flip angle"),
        ({"sequence": "se", "tr_ms": 100, "te_ms": 100}, "shorter than TR"),
        ({"sequence": "se", "tr_ms": 100, "te_ms": 0}, "0 < TE"),
        ({"sequence": "fse", "tr_ms": 4000, "te_ms": 90, "etl": 8, "esp_ms": 10}, "within the train"),
        ({"sequence": "fse", "tr_ms": 4000, "te_ms": 5, "etl": 8, "esp_ms": 10}, "within the train"),
        ({"sequence": "fse", "tr_ms": 70, "te_ms": 50, "etl": 8, "esp_ms": 10}, "shorter than TR"),
        ({"sequence": "flair", "tr_ms": 2000, "te_ms": 120, "ti_ms": 2000}, "TI and train shorter than TR"),
        ({"sequence": "ir", "tr_ms": 2000, "te_ms": 12, "ti_ms": -5}, "TI"),
        ({"sequence": "ir", "tr_ms": 2000, "te_ms": 12, "ti_ms": 5, "inversion_efficiency": 1.2}, "0 to 1"),
        ({**PRESETS["brain_t1_mprage"], "ti_ms": 400}, "around TI"),
        ({**PRESETS["brain_t1_mprage"], "tr_ms": 1300}, "around TI"),
        ({**PRESETS["brain_t1_mprage"], "te_ms": 8}, "TE < the spacing"),
        ({"sequence": "bssfp", "tr_ms": 0, "flip_deg": 60}, "positive TR"),
        ({"sequence": "dwi", "tr_ms": 6000, "te_ms": 80, "b_s_mm2": -1}, "from 0 up"),
    ],
)
def test_an_impossible_acquisition_is_refused_with_a_remedy(acquisition, message):
    with pytest.raises(OperatorError, match=message):
        mr.signal(one(), acquisition)


def test_signal_without_maps_is_refused():
    with pytest.raises(OperatorError, match="T1_ms"):
        mr.signal({"PD": np.ones(1)}, {"sequence": "spgr", "tr_ms": 100, "te_ms": 4, "flip_deg": 80})
    with pytest.raises(OperatorError, match="GD"):
        mr.signal(maps_of("liver"), {**PRESETS["abdomen_t1"], "gd_mmol": 0.1})


@pytest.mark.parametrize("te", [0.3 * 10, 85.0])
def test_weights_of_an_echo_train_need_an_echo_time_within_it(te):
    with pytest.raises(OperatorError, match="within the train"):
        mr_spin.fse_psf(80.0, 10.0, 8, 64, te_ms=te)


def test_ct_numbers_at_120_kvp_are_the_map_and_iodine_grows_at_lower_voltage():
    maps = {"HU": np.array([110.0, -100.0]), "HU_unenhanced": np.array([58.0, -100.0])}
    assert np.array_equal(ct.hu(maps, {"kvp": 120}), maps["HU"])
    at_100 = ct.hu(maps, {"kvp": 100})
    assert at_100[0] == pytest.approx(58 + 52 * 32 / 25)
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
        steps = np.diff(operator.levels)
        assert np.all(steps > 0) or np.all(steps < 0)


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
