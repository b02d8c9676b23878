"""Radiomic features: the digital phantom of IBSI, MIRP, contamination with background, and their rows."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from shiftbench.data.phantoms import abdomen
from shiftbench.data.phantoms.abdomen import AbdomenPhantom
from shiftbench.errors import DataError, SpecError
from shiftbench.metrics.features import CONTAMINATION, FEATURES, INTENSITY, LESION_FEATURES, PREFIX, SHAPE, features_of
from shiftbench.metrics.ibsi import IBSI, MOST_VOXELS, _by_mirp, check_installed, ibsi_features
from shiftbench.metrics.radiomics import contamination, features, intensity_features, mixed, shape_features
from shiftbench.metrics.scorers import ScoredStructure
from shiftbench.rng import generator
from shiftbench.scoring.case import ScoredCase
from shiftbench.scoring.kinds import phantom_type
from shiftbench.scoring.radiomics import TOO_LARGE, UNDEFINED, absent_radiomics_rows, radiomics_rows
from shiftbench.types import Anatomy, Geometry, Status

# The digital phantom of the IBSI reference manual: 5 x 4 x 4 voxels of 2 mm, 0 outside the region of interest.
DIGITAL = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    float,
)
# Its reference values, with the digits that the manual gives.
REFERENCE_VALUES = {
    "mean": "2.15",
    "variance": "3.05",
    "skewness": "1.08",
    "excess_kurtosis": "-0.355",
    "median": "1",
    "minimum": "1",
    "percentile_10": "1",
    "percentile_90": "4",
    "maximum": "6",
    "interquartile_range": "3",
    "range": "5",
    "mean_absolute_deviation": "1.55",
    "robust_mean_absolute_deviation": "1.11",
    "median_absolute_deviation": "1.15",
    "coefficient_of_variation": "0.812",
    "quartile_coefficient_of_dispersion": "0.6",
    "energy": "567",
    "root_mean_square": "2.77",
    "volume_ml": "0.592",
    "mesh_volume_ml": "0.556",
    "surface_area_mm2": "388",
    "surface_to_volume_per_mm": "0.698",
    "sphericity": "0.843",
    "maximum_diameter_mm": "13.1",
    "major_axis_mm": "11.4",
    "minor_axis_mm": "9.31",
    "least_axis_mm": "8.54",
    "elongation": "0.816",
    "flatness": "0.749",
}
SPACING = (5.0, 3.0, 2.0)


def lump(shape=(12, 26, 30), *names, share=0.98) -> tuple[np.ndarray, np.ndarray]:
    """An image in single precision and a rough ellipsoid in it."""
    rng = generator(0, "lump", *names)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    centre, radii = rng.uniform(-0.2, 0.2, 3), rng.uniform(0.35, 0.7, 3)
    mask = (((grid.T - centre) / radii) ** 2).sum(-1).T < 1
    return rng.normal(60, 20, shape).astype(np.float32), mask & (rng.random(shape) < share)


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_the_digital_phantom_has_the_reference_values_of_ibsi(name):
    value, printed = features(DIGITAL, DIGITAL > 0, (2, 2, 2))[name], REFERENCE_VALUES[name]
    digits = len(printed.partition(".")[2])
    assert value == pytest.approx(float(printed), abs=0.5 * 10**-digits + 1e-9)


def test_every_feature_has_a_reference_value_an_identifier_and_a_unit():
    assert set(REFERENCE_VALUES) == set(FEATURES) and set(LESION_FEATURES) <= set(FEATURES)
    assert len({feature.ibsi for feature in FEATURES.values()}) == len(FEATURES)
    assert all(len(feature.ibsi) == 4 and feature.unit and feature.version >= 1 for feature in FEATURES.values())
    assert list(features(DIGITAL, DIGITAL > 0, (2, 2, 2))) == list(FEATURES)


@pytest.fixture(scope="module")
def by_mirp(tmp_path_factory):
    """MIRP's statistics of an array (float64, whose spacing it drops), and morphology from files with a spacing."""
    extract = pytest.importorskip("mirp").extract_features
    sitk = pytest.importorskip("SimpleITK")

    def measured(image, mask, family):
        if family == "statistics":
            arguments = {"image": image.astype(float), "mask": mask.astype(np.uint8)}
        else:
            folder = tmp_path_factory.mktemp("mirp")
            arguments = {name: str(folder / f"{name}.nii") for name in ("image", "mask")}
            for name, array in (("image", image), ("mask", mask.astype(np.uint8))):
                volume = sitk.GetImageFromArray(array)
                volume.SetSpacing(SPACING[::-1])
                sitk.WriteImage(volume, arguments[name])
        return extract(**arguments, base_feature_families=[family], image_modality="mr", by_slice=False)[0].iloc[0]

    return measured


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_features_agree_with_mirp_on_random_anisotropic_masks(by_mirp, name):
    image, mask = lump((12, 26, 30), name)
    ours = features(image, mask, SPACING)
    for family, table in (("statistics", INTENSITY), ("morphological", SHAPE)):
        theirs = by_mirp(image, mask, family)
        for feature, entry in table.items():
            per_ml = 1000.0 if feature.endswith("_ml") else 1.0
            assert ours[feature] == pytest.approx(float(theirs[entry.mirp]) / per_ml, rel=1e-6), feature


def test_a_ball_has_the_shape_of_a_ball():
    grid = np.indices((41, 41, 41)) - 20.0
    found = shape_features((grid**2).sum(0) <= 15.0**2, (2.0, 2.0, 2.0))
    assert found["maximum_diameter_mm"] == pytest.approx(62.0, abs=0.1)  # 30 voxels and half a voxel on either side
    assert found["sphericity"] == pytest.approx(1.0, abs=0.1) and found["sphericity"] < 1
    assert found["elongation"] == pytest.approx(1.0) and found["flatness"] == pytest.approx(1.0)
    assert found["volume_ml"] == pytest.approx(4 / 3 * np.pi * 30**3 / 1000, rel=0.01)


def test_shape_does_not_depend_on_padding_axis_order_or_flips():
    image, mask = lump()
    plain = features(image, mask, SPACING)
    changed = {
        "padded": features(np.pad(image, 3), np.pad(mask, 3), SPACING),
        "turned": features(image.transpose(2, 0, 1), mask.transpose(2, 0, 1), (SPACING[2], SPACING[0], SPACING[1])),
        "flipped": features(image[::-1, :, ::-1], mask[::-1, :, ::-1], SPACING),
    }
    # where a face of marching cubes is ambiguous, turned cubes are cut another way: only the mesh may differ a little
    of_mesh = {"mesh_volume_ml", "surface_area_mm2", "surface_to_volume_per_mm", "sphericity"}
    for name, found in changed.items():
        for feature, value in plain.items():
            rough = feature in of_mesh and name != "padded"
            assert found[feature] == pytest.approx(value, rel=5e-3 if rough else 1e-6), (name, feature)


def test_a_single_voxel_and_equal_intensities_are_undefined_where_they_should_be():
    image, mask = np.full((3, 3, 3), 7.1), np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    found = features(image, mask, (2, 2, 2))
    empty = {name for name, value in found.items() if value is None}
    assert empty == {"skewness", "excess_kurtosis", "elongation", "flatness"}
    assert found["volume_ml"] == pytest.approx(0.008) and found["variance"] == 0.0
    even = intensity_features(np.full(10, 0.1))  # its variance is a rounding error
    assert even["skewness"] is None and even["coefficient_of_variation"] == pytest.approx(0.0)
    pair = intensity_features([-1.0, 1.0])
    assert pair["coefficient_of_variation"] is None and pair["quartile_coefficient_of_dispersion"] is None
    assert pair["robust_mean_absolute_deviation"] is None and pair["mean_absolute_deviation"] == 1.0


def test_images_of_two_dimensions_or_without_spacing_have_no_shape():
    image, mask = np.arange(12.0).reshape(3, 4), np.eye(3, 4, dtype=bool)
    assert list(features(image, mask, (1.0, 1.0))) == list(INTENSITY) == list(features_of(2, "mm"))
    assert list(features(*lump(), (1, 1, 1), "px")) == list(INTENSITY) == list(features_of(3, "px"))


def test_bad_input_is_refused():
    image, mask = lump()
    for bad, words in (
        ((image, mask[:-1], SPACING), "do not fit"),
        ((image, mask, (1.0, 1.0)), "do not fit"),
        ((image, mask, (1.0, 1.0, 0.0)), "do not fit"),
        ((image, np.zeros_like(mask), SPACING), "empty mask"),
        ((np.where(mask, np.nan, image), mask, SPACING), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            features(*bad)


# --- contamination ----------------------------------------------------------------------------------------------------


def test_the_formula_gives_the_figures_of_the_design():
    assert mixed(0.2, (100, 64), (40, 64)) == pytest.approx((-12.0, 640.0))
    assert mixed(0.3, (100, 64), (40, 64)) == pytest.approx((-18.0, 820.0))
    assert mixed(0.2, (100, 25), (40, 100)) == pytest.approx((-12.0, 0.8 * 25 + 0.2 * 100 + 576))  # unequal variances


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_the_formula_holds_within_monte_carlo_error(share):
    rng, n = generator(0, "contamination", share), 200_000
    inside = rng.random(n) >= share
    values = np.where(inside, rng.normal(100, 8, n), rng.normal(40, 8, n))
    bias, variance = mixed(share, (100, 64), (40, 64))
    assert values.mean() - 100 == pytest.approx(bias, abs=4 * np.sqrt(variance / n))
    fourth = ((values - values.mean()) ** 4).mean()
    assert values.var() == pytest.approx(variance, abs=4 * np.sqrt((fourth - variance**2) / n))


def scene(share: float, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image in which target and background differ, the target, and an outline of it with a share of background."""
    rng, shape = generator(0, "scene", name), (10, 40, 40)
    reference = np.zeros(shape, bool)
    reference[2:8, 8:28, 8:28] = True
    image = np.where(reference, rng.normal(100, 8, shape), rng.normal(40, 12, shape))
    outside = np.flatnonzero(~reference)
    prediction = reference.copy()
    prediction.flat[outside[: round(share / (1 - share) * reference.sum())]] = True
    return image, prediction, reference


def test_without_missed_voxels_formula_and_observation_are_the_same():
    image, prediction, reference = scene(0.25, "exact")
    found = contamination(image, prediction, reference)
    assert found.share == pytest.approx(0.25, abs=1e-3) and found.missed == 0.0
    inside, target = intensity_features(image[prediction]), intensity_features(image[reference])
    assert inside["mean"] - target["mean"] == pytest.approx(found.mean_bias, rel=1e-12)
    assert inside["variance"] == pytest.approx(found.variance, rel=1e-12)


def test_missed_voxels_matter_only_where_they_look_unlike_the_rest():
    image, prediction, reference = scene(0.2, "missed")
    image = image.copy()
    rim = reference & (np.indices(reference.shape)[0] < 4)  # a third of the target
    residuals = {}
    for name, drop in (("alike", 0.0), ("unlike", 15.0)):
        seen = image - drop * rim
        found = contamination(seen, prediction & ~rim, reference)
        assert found.missed == pytest.approx(1 / 3)
        observed = seen[prediction & ~rim].mean() - seen[reference].mean()
        residuals[name] = observed - found.mean_bias
    assert abs(residuals["alike"]) < 0.5 and residuals["unlike"] > 3


def test_contamination_of_a_perfect_outline_is_none_and_of_an_empty_one_undefined():
    image, _, reference = scene(0.2, "empty")
    found = contamination(image, reference, reference)
    assert (found.share, found.missed, found.mean_bias) == (0.0, 0.0, 0.0)
    assert found.variance == pytest.approx(image[reference].var())
    assert contamination(image, np.zeros_like(reference), reference) is None
    assert contamination(image, reference, np.zeros_like(reference)) is None


# --- MIRP as the source of the full set -------------------------------------------------------------------------------


def test_the_full_set_is_what_mirp_has_but_for_what_is_measured_here_or_drawn_at_random():
    pytest.importorskip("mirp")
    image, mask = lump((8, 12, 12))
    found = ibsi_features(image, mask, SPACING)
    assert list(found) == list(IBSI) and not any(value is None for value in found.values())
    _by_mirp.cache_clear()
    assert ibsi_features(image, mask, SPACING) == found  # to the bit: nothing is drawn at random
    assert not set(IBSI) & {feature.mirp for feature in FEATURES.values()}
    assert not {"morph_moran_i", "morph_geary_c"} & set(IBSI)


def test_the_full_set_sees_the_spacing_and_not_the_field_of_view():
    pytest.importorskip("mirp")
    image, mask = lump((8, 12, 12))
    found = ibsi_features(image, mask, SPACING)
    assert ibsi_features(np.pad(image, 2), np.pad(mask, 2), SPACING) == found
    longer = ibsi_features(image, mask, (15.0, 3.0, 2.0))
    assert longer["morph_sph_dispr"] != pytest.approx(found["morph_sph_dispr"], rel=0.02)
    ours = features(image, mask, SPACING)["sphericity"]
    assert found["morph_sph_dispr"] == pytest.approx(1 / ours, rel=1e-5)


def test_without_mirp_the_remedy_is_named_before_anything_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mirp", None)
    monkeypatch.setattr("shiftbench.metrics.ibsi.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"tiny: .*needs MIRP.*pip install 'shiftbench\[radiomics\]'"):
        check_installed("tiny")


# --- rows -------------------------------------------------------------------------------------------------------------

STRUCTURES = (ScoredStructure("liver", 2.0), ScoredStructure("tumour", 2.0, "lesions"))


def labels(*, tumours=((4, 8, 8), (4, 20, 20)), liver=True) -> np.ndarray:
    """A liver with cubes of 27 voxels as tumours."""
    out = np.zeros((10, 30, 30), np.uint8)
    out[1:9, 3:27, 3:27] = liver
    for z, y, x in tumours:
        out[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 2
    return out


def scored(prediction, reference, *, status=Status.OK, asked=None, image=None, drawn="p", attributes=None):
    """A case whose arrays are at hand."""
    case = ScoredCase(
        store=None,
        case="p",
        entry={"status": str(status), "detail": ""},
        stored="p",
        predicted_in=None,
        info={"patient": "p", "spacing": [4.0, 2.0, 2.0], "attributes": attributes or {}},
        keys=("a", "i", "r"),
        drawn=(drawn, "r"),
        structures=STRUCTURES,
        layout=None,
        options={"radiomics": {"features": "basic", "channel": 0, "lesion_min_voxels": 8, **(asked or {})}},
    )
    if image is None:
        image = generator(0, "rows").normal(50, 5, reference.shape) - 30 * (reference == 2)
    case.__dict__["image"] = np.stack([image, image * 2]).astype(np.float32)
    case.__dict__["reference"] = reference
    case.__dict__["prediction"] = {} if prediction is None else {"labels": prediction}
    return case


def table(rows) -> dict[tuple[str, str, str], dict]:
    found = {(r["structure"], r["metric"].removeprefix(PREFIX), r["definition"]): r for r in rows}
    assert len(found) == len(rows)  # every row once
    return found


def test_a_case_has_every_feature_in_both_outlines_and_the_formula():
    reference, prediction = labels(), labels(tumours=((4, 9, 8), (4, 20, 20)))
    case = scored(prediction, reference)
    rows = table(radiomics_rows(case))
    whole = [key for key in rows if ":" not in key[2]]
    assert len(whole) == 2 * (2 * len(FEATURES) + len(CONTAMINATION))
    image = case.image[0].astype(float)
    for definition, labelled in (("reference", reference), ("predicted", prediction)):
        own = features(image, labelled == 2, (4, 2, 2))
        assert {name: rows["tumour", name, definition]["value"] for name in FEATURES} == own
    observed = rows["tumour", "mean", "predicted"]["value"] - rows["tumour", "mean", "reference"]["value"]
    assert rows["tumour", "contamination", "formula"]["value"] == pytest.approx(9 / 54)
    assert rows["tumour", "missed_share", "formula"]["value"] == pytest.approx(9 / 54)
    assert rows["tumour", "mean_bias", "formula"]["value"] == pytest.approx(observed, abs=1.5)
    assert rows["tumour", "mean", "reference"]["unit"] == "image unit"


def test_another_channel_can_be_measured_and_a_missing_one_is_named():
    first, second = (
        table(radiomics_rows(scored(labels(), labels(), asked={"channel": channel}))) for channel in (0, 1)
    )
    mean = [rows["liver", "mean", "predicted"]["value"] for rows in (first, second)]
    assert mean[1] == pytest.approx(2 * mean[0])
    with pytest.raises(DataError, match="case p has 2 channels, and channel 2"):
        radiomics_rows(scored(labels(), labels(), asked={"channel": 2}))


def test_a_scenario_that_does_not_ask_has_no_rows():
    case = scored(labels(), labels())
    case.options.pop("radiomics")
    assert radiomics_rows(case) == [] == absent_radiomics_rows(case, "why")


@pytest.mark.parametrize(
    ("prediction", "reference", "status", "expected"),
    [
        (labels(tumours=()), labels(), Status.OK, Status.MISSED),
        (None, labels(), Status.FAILED, Status.FAILED),
        (None, labels(), Status.OK, Status.PREDICTION_MISSING),
        (labels()[:-1], labels(), Status.OK, Status.INVALID_GEOMETRY),
    ],
)
def test_without_a_prediction_the_reference_keeps_its_value(prediction, reference, status, expected):
    rows = table(radiomics_rows(scored(prediction, reference, status=status)))
    tumour = {key: r for key, r in rows.items() if key[0] == "tumour"}
    assert {r["status"] for r in tumour.values()} == {str(expected)}
    for (_, _, definition), r in tumour.items():
        assert (r["value"] is not None) == definition.startswith("reference"), definition
    assert len(rows) == len(radiomics_rows(scored(labels(), labels())))  # the same list of rows whatever happened


@pytest.mark.parametrize(
    ("prediction", "status", "expected"),
    [
        (labels(), Status.OK, Status.FP_ON_NEGATIVE),
        (labels(tumours=()), Status.OK, Status.BOTH_EMPTY),
        (None, Status.TIMEOUT, Status.TIMEOUT),
    ],
)
def test_a_negative_case_has_no_value_at_all(prediction, status, expected):
    rows = table(radiomics_rows(scored(prediction, labels(tumours=()), status=status)))
    tumour = [r for key, r in rows.items() if key[0] == "tumour"]
    assert {r["status"] for r in tumour} == {str(expected)} and {r["value"] for r in tumour} == {None}
    assert all(("reference_empty" in r["detail"]) == (expected is Status.TIMEOUT) for r in tumour)


def test_lesions_are_matched_to_the_predicted_lesion_that_holds_most_of_them():
    reference = labels(tumours=((4, 8, 8), (4, 20, 20), (4, 8, 20)))
    prediction = labels(tumours=((4, 9, 8), (4, 8, 20)))  # one moved by a voxel, one missed, one right
    prediction[1, 20, 20] = 2  # far from the missed one's middle and touching none of it
    case = scored(prediction, reference)
    rows = table(radiomics_rows(case))
    numbers = sorted({key[2] for key in rows if ":" in key[2]})
    assert numbers == [f"{side}:{i}" for side in ("predicted", "reference") for i in (1, 2, 3)]
    status = {i: rows["tumour", "volume_ml", f"predicted:{i}"]["status"] for i in (1, 2, 3)}
    volume = {i: rows["tumour", "volume_ml", f"predicted:{i}"]["value"] for i in (1, 2, 3)}
    missed = [i for i in status if status[i] == "missed"]
    assert len(missed) == 1 and volume.pop(missed[0]) is None
    assert list(volume.values()) == pytest.approx([27 * 16 / 1000] * 2)
    assert rows["tumour", "mean", "reference:1"]["value"] == pytest.approx(case.image[0][3:6, 7:10, 7:10].mean())
    assert all(r["detail"] == "type=tumour" for key, r in rows.items() if ":" in key[2])


def test_small_lesions_and_structures_that_are_no_lesions_are_not_measured_on_their_own():
    reference = labels()
    reference[8, 25, 25] = 2
    for fewest, n in ((1, 3), (8, 2), (28, 0)):
        rows = radiomics_rows(scored(reference, reference, asked={"lesion_min_voxels": fewest}))
        assert len({r["definition"] for r in rows if ":" in r["definition"]}) == 2 * n
    assert not any(r["structure"] == "liver" and ":" in r["definition"] for r in rows)


def test_an_undefined_feature_says_so():
    image = np.full((10, 30, 30), 3.0)
    rows = table(radiomics_rows(scored(labels(), labels(), image=image)))
    skewness = rows["liver", "skewness", "predicted"]
    assert skewness["value"] is None and skewness["status"] == "ok" and skewness["detail"] == UNDEFINED
    assert rows["liver", "mean", "predicted"]["detail"] == ""


def test_a_case_without_meaning_has_the_rows_of_any_other_but_for_lesions():
    rows = table(absent_radiomics_rows(scored(labels(), labels()), "no such level"))
    made = table(radiomics_rows(scored(labels(), labels())))
    assert set(rows) == {key for key in made if ":" not in key[2]}
    assert {r["status"] for r in rows.values()} == {"not_applicable"}
    assert {(key, r["unit"]) for key, r in rows.items()} == {
        (key, r["unit"]) for key, r in made.items() if ":" not in key[2]
    }


def test_the_full_set_has_rows_beside_the_basic_one_and_none_of_large_outlines(monkeypatch):
    pytest.importorskip("mirp")
    rows = table(radiomics_rows(scored(labels(), labels(), asked={"features": "ibsi"})))
    assert rows["liver", "cm_energy", "reference"]["value"] is not None
    assert len(rows) == len(radiomics_rows(scored(labels(), labels()))) + 2 * 2 * len(IBSI)
    monkeypatch.setattr("shiftbench.scoring.radiomics.MOST_VOXELS", 100)
    rows = table(radiomics_rows(scored(labels(), labels(), asked={"features": "ibsi"})))
    large, small = rows["liver", "cm_energy", "predicted"], rows["tumour", "cm_energy", "predicted"]
    assert large["status"] == "not_applicable" and large["detail"] == TOO_LARGE and str(MOST_VOXELS) in TOO_LARGE
    assert small["status"] == "ok" and small["value"] is not None
    absent = table(absent_radiomics_rows(scored(labels(), labels(), asked={"features": "ibsi"}), "why"))
    assert set(absent) == {key for key in rows if ":" not in key[2]}


# --- types of lesions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", [{}, {"lesion_load": 6.0, "pdff_percent": 25.0, "iron_r2star": 300.0}])
def test_the_type_of_a_phantom_lesion_is_the_one_it_was_painted_as(monkeypatch, population):
    painted, real = [], abdomen.lesions
    monkeypatch.setattr(abdomen, "lesions", lambda *given: painted.append(real(*given)) or painted[-1])
    phantom = AbdomenPhantom(patients=8, shape=(10, 64, 64), spacing_mm=(8.0, 6.0, 6.0), supersampling=(1, 2, 2))
    seen = []
    for i in range(8):
        anatomy = phantom.anatomy(f"p{i:04d}", population)
        for number, lesion in enumerate(painted[-1], start=1):
            mask = anatomy.instances == number
            if mask.sum() >= 8:
                seen.append((phantom_type(anatomy, mask), lesion.kind))
    assert len(seen) > 8 and all(found == kind for found, kind in seen)
    assert {kind for _, kind in seen} == {"cyst", "hcc", "metastasis"}


def test_outside_the_phantom_a_type_is_an_attribute_or_the_name_of_the_structure():
    typed = radiomics_rows(scored(labels(), labels(), attributes={"lesion_type": "adenoma"}))
    assert {r["detail"] for r in typed if ":" in r["definition"]} == {"type=adenoma"}
    elsewhere = Anatomy("p", "p", Geometry((1.0, 1.0, 1.0)), np.zeros((10, 30, 30), np.int16))
    assert phantom_type(elsewhere, labels() == 2) is None
    borrowed = scored(labels(), labels(), attributes={"tumours": 1.0, "cysts": 0.0}, drawn="q")
    assert {r["detail"] for r in radiomics_rows(borrowed) if ":" in r["definition"]} == {"type=tumour"}
