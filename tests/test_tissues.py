"""Tissue tables and the maps looked up from them: values, units, fields, phases, textures, mixtures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shiftbench.data.phantoms import AbdomenPhantom, tissue_maps
from shiftbench.data.phantoms.tissues import (
    PHASES,
    PROPERTIES,
    TISSUES,
    at_field,
    mix,
    value_table,
    vary,
)
from shiftbench.data.phantoms.traits import with_fat, with_iron
from shiftbench.errors import DataError
from shiftbench.types import Anatomy

SMALL = AbdomenPhantom(patients=2, shape=(6, 48, 48), spacing_mm=(8.0, 8.0, 8.0), supersampling=(2, 2, 3))


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return SMALL.anatomy("p0000", {})


def upsampled(anatomy: Anatomy) -> np.ndarray:
    texture = anatomy.texture
    for axis, factor in enumerate(anatomy.supersampling, start=1):
        texture = np.repeat(texture, factor, axis=axis)
    return texture


def test_maps_are_the_tissues_values_varied_by_the_texture_voxel_by_voxel(anatomy):
    maps = tissue_maps(anatomy, 3.0, phase="late_arterial")
    one, two = upsampled(anatomy)
    values, tissue = anatomy.values, anatomy.tissue
    matter = (values["PD"] > 0)[tissue]
    expected = {
        "T1_ms": values["T1_ms_3T"][tissue] * (1 + one),
        "T2_ms": values["T2_ms_3T"][tissue] * (1 + one),
        "T2star_ms": values["T2star_ms_3T"][tissue] * (1 + two),
        "PD": values["PD"][tissue] * (1 + 0.5 * two),
        "ADC": values["ADC"][tissue] * (1 + one),
        "GD": values["GD"][tissue],
        "FAT": values["FAT"][tissue],
        "HU": values["HU_late_arterial"][tissue] + 100 * matter * one,
        "HU_unenhanced": values["HU_unenhanced"][tissue] + 100 * matter * one,
        "IODINE": (values["HU_late_arterial"] - values["HU_unenhanced"])[tissue] / 25,
    }
    assert tuple(maps) == PROPERTIES == tuple(expected)
    for name, wanted in expected.items():
        assert isinstance(maps[name], torch.Tensor) and maps[name].dtype == torch.float32
        assert maps[name].shape == tissue.shape
        np.testing.assert_allclose(maps[name].numpy(), wanted, rtol=2e-6, atol=1e-4, err_msg=name)


def test_only_the_wanted_maps_are_computed_and_none_shares_memory(anatomy):
    maps = tissue_maps(anatomy, properties=("FAT", "PD"))
    assert list(maps) == ["FAT", "PD"]
    before = anatomy.values["PD"].copy(), anatomy.texture.copy()
    maps["PD"].zero_()
    assert np.array_equal(before[0], anatomy.values["PD"]) and np.array_equal(before[1], anatomy.texture)


def test_replaced_values_are_used(anatomy):
    longer = replace(anatomy, values={**anatomy.values, "T1_ms_1.5T": 2 * anatomy.values["T1_ms_1.5T"]})
    one, two = (tissue_maps(a, properties=("T1_ms", "T2_ms")) for a in (anatomy, longer))
    assert torch.allclose(two["T1_ms"], 2 * one["T1_ms"]) and torch.equal(two["T2_ms"], one["T2_ms"])


def test_maps_are_finite_and_positive_and_follow_the_tissue(anatomy):
    maps = {name: values.numpy() for name, values in tissue_maps(anatomy).items()}
    for name, values in maps.items():
        assert np.isfinite(values).all()
        if name.startswith("T"):
            assert values.min() > 0
    for name in ("PD", "ADC", "GD", "FAT", "IODINE"):
        assert maps[name].min() >= 0 and np.all(maps[name][anatomy.tissue == 0] == 0)
    assert np.all(maps["HU"][anatomy.tissue == 0] == -1000) and maps["FAT"].max() <= 1
    for index in np.unique(anatomy.tissue):
        inside = anatomy.tissue == index
        if inside.sum() > 3000:
            assert maps["T1_ms"][inside].mean() == pytest.approx(anatomy.values["T1_ms_1.5T"][index], rel=0.05)


def test_enhancement_is_that_of_the_iodine(anatomy):
    for phase in PHASES:
        maps = tissue_maps(anatomy, phase=phase, properties=("HU", "HU_unenhanced", "IODINE"))
        assert torch.allclose(maps["HU"] - maps["HU_unenhanced"], 25 * maps["IODINE"], atol=1e-3)
    assert tissue_maps(anatomy, phase="unenhanced", properties=("IODINE",))["IODINE"].abs().max() == 0


@pytest.mark.parametrize(("field_t", "index"), [(1.5, 0), (3.0, 1)])
def test_the_power_law_passes_through_both_tabulated_fields(field_t, index):
    for tissue in TISSUES.values():
        low, high = np.float32(tissue.t1_ms[0]), np.float32(tissue.t1_ms[1])
        assert at_field(low, high, field_t) == pytest.approx(tissue.t1_ms[index], rel=1e-5)


def test_t1_grows_with_the_field_and_keeps_the_order_of_the_abdomen():
    order = ("fat", "liver", "muscle", "kidney_cortex", "spleen", "kidney_medulla", "csf")
    at_15 = [TISSUES[name].t1_ms[0] for name in order]
    assert at_15 == sorted(at_15)
    for tissue in TISSUES.values():
        low, high = (np.float32(t) for t in tissue.t1_ms)
        assert at_field(low, high, 0.55) <= low <= high <= at_field(low, high, 7.0)
    assert all(t.t2star_ms[i] <= t.t2_ms[i] + 1 for t in TISSUES.values() for i in (0, 1))


def test_portal_venous_enhancement_orders_the_abdomen_as_in_the_clinic():
    portal = {name: TISSUES[name].hu[PHASES.index("portal_venous")] for name in TISSUES}
    order = ("air", "fat", "bile", "muscle", "tumour", "liver", "spleen", "blood_portal", "kidney_cortex")
    assert [portal[name] for name in order] == sorted(portal[name] for name in order)
    maps = {phase: tissue_maps(SMALL.anatomy("p0000", {}), phase=phase, properties=("HU",))["HU"] for phase in PHASES}
    assert maps["portal_venous"].mean() > maps["unenhanced"].mean()


def test_a_mixture_lies_between_its_parts():
    half = mix([(TISSUES["fat"], 0.5), (TISSUES["liver"], 0.5)], "half and half")
    assert half.t1_ms[0] == pytest.approx(2 / (1 / 343 + 1 / 586))
    assert half.pd == pytest.approx((0.95 + 0.72) / 2) and half.hu[0] == pytest.approx((-100 + 58) / 2)


@pytest.mark.parametrize(
    ("name", "adc"),
    [
        ("csf", 3.0),
        ("liver", 1.1),
        ("spleen", 0.8),
        ("kidney_cortex", 2.0),
        ("kidney_medulla", 1.9),
        ("pancreas", 1.3),
        ("muscle", 1.4),
        ("white_matter", 0.75),
        ("grey_matter", 0.85),
        ("marrow", 0.4),
    ],
)
def test_diffusion_coefficients_are_those_of_the_table(name, adc):
    assert TISSUES[name].adc == adc


def test_uptake_and_fat_are_shares_and_as_physiology_says():
    assert all(0 <= t.gd <= 1 and 0 <= t.fat <= 1 and t.adc >= 0 for t in TISSUES.values())
    assert {n for n, t in TISSUES.items() if t.gd == 1} == {"blood_arterial", "blood_venous", "blood_portal"}
    assert TISSUES["white_matter"].gd == TISSUES["grey_matter"].gd == TISSUES["csf"].gd == TISSUES["cyst"].gd == 0
    assert 0.1 <= TISSUES["muscle"].gd < TISSUES["liver"].gd < TISSUES["tumour"].gd <= 0.5
    fat = {n: t.fat for n, t in TISSUES.items()}
    assert fat["fat"] > 0.9 > fat["marrow"] > fat["pancreas"] > fat["liver"] > 0 == fat["spleen"]


def test_varied_tissues_move_together_at_both_fields_and_keep_uptake_and_fat():
    rng = np.random.default_rng(0)
    liver = TISSUES["liver"]
    some = [vary(liver, rng, times=0.07, hu=7.0) for _ in range(400)]
    assert np.std([np.log(t.t1_ms[0]) for t in some]) == pytest.approx(0.07, rel=0.15)
    assert np.std([t.hu[2] for t in some]) == pytest.approx(7.0, rel=0.15)
    assert all(t.t1_ms[1] / t.t1_ms[0] == pytest.approx(liver.t1_ms[1] / liver.t1_ms[0]) for t in some)
    assert all(t.adc / liver.adc == pytest.approx(t.t2_ms[0] / liver.t2_ms[0]) for t in some)
    assert {(t.gd, t.fat) for t in some} == {(liver.gd, liver.fat)}


def test_a_mixture_averages_diffusion_uptake_and_fat_by_share():
    both = mix([(TISSUES["fat"], 1.0), (TISSUES["liver"], 3.0)], "a quarter of fat")
    assert both.fat == pytest.approx((0.95 + 3 * 0.03) / 4)
    assert both.adc == pytest.approx((0.05 + 3 * 1.1) / 4)
    assert both.gd == pytest.approx((0.03 + 3 * 0.25) / 4)


def test_fat_is_mixed_in_and_out_and_normal_iron_changes_nothing():
    liver = TISSUES["liver"]
    assert with_fat(liver, liver.fat) is liver and with_iron(liver, 40.0) is liver
    back = with_fat(with_fat(liver, 0.3), 0.03)
    assert back.t1_ms == pytest.approx(liver.t1_ms) and back.pd == pytest.approx(liver.pd)
    assert with_fat(liver, 0.95).t1_ms == pytest.approx(TISSUES["fat"].t1_ms)
    assert with_iron(liver, 1000.0).t2star_ms[1] < 1.0 < with_iron(liver, 1000.0).t2_ms[1]


def test_a_value_table_holds_every_property_for_every_tissue():
    table = value_table(TISSUES.values())
    needed = {"PD", "ADC", "GD", "FAT", "HU", *(f"HU_{p}" for p in PHASES)}
    needed |= {f"{t}_ms_{f}T" for t in ("T1", "T2", "T2star") for f in ("1.5", "3")}
    assert set(table) == needed
    assert all(v.shape == (len(TISSUES),) and v.dtype == np.float32 for v in table.values())


def test_maps_of_a_real_scan_or_at_an_impossible_field_are_refused(anatomy):
    real = Anatomy("a", "a", anatomy.geometry, anatomy.fine, image=np.zeros((1, *SMALL.shape), np.float32))
    with pytest.raises(DataError, match="no tissue maps"):
        tissue_maps(real)
    with pytest.raises(DataError, match="0.01 and 12"):
        tissue_maps(anatomy, 0.0)
    with pytest.raises(DataError, match="portal_venous"):
        tissue_maps(anatomy, phase="portal")
    with pytest.raises(DataError, match="T2star_ms"):
        tissue_maps(anatomy, properties=("T2star",))
