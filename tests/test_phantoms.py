"""The abdominal phantom: same bytes, counterfactual populations, consistent labels, tissue values."""

import functools
import hashlib

import numpy as np
import pytest

from shiftbench.data.phantoms import AbdomenPhantom, tissue_maps
from shiftbench.data.phantoms.brain import BrainPhantom
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.heart import HeartPhantom
from shiftbench.data.phantoms.lesions import poisson_quantile
from shiftbench.data.phantoms.shapes import Grid, majority, warped_grid
from shiftbench.data.phantoms.tissues import TISSUES
from shiftbench.errors import DataError
from shiftbench.rng import generator
from shiftbench.shifts import POPULATIONS
from shiftbench.types import Anatomy

SMALL = AbdomenPhantom(patients=12, shape=(10, 48, 48), spacing_mm=(8.0, 8.0, 8.0))
PHANTOMS = {phantom.name: phantom for phantom in (AbdomenPhantom, BrainPhantom, HeartPhantom)}
INDEX = {name: i for i, name in enumerate(SMALL.fine_labels)}
LESIONS = [INDEX[n] for n in ("tumour", "tumour_rim", "cyst")]
KIDNEY = [INDEX["kidney_cortex"], INDEX["kidney_medulla"]]
LIVER_PARTS = [INDEX[n] for n in ("liver", "hilum", "portal_vessel", "hepatic_vessel")]


def bytes_of(anatomy: Anatomy) -> str:
    h = hashlib.sha256()
    for array in (anatomy.fine, anatomy.instances, anatomy.tissue, anatomy.texture):
        h.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(anatomy.values):
        h.update(name.encode() + anatomy.values[name].tobytes())
    return h.hexdigest()


def first_with_lesion(population: dict[str, float]) -> str:
    return next(c.case_id for c in SMALL.cases() if SMALL.anatomy(c.case_id, population).instances.any())


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    forwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0000", "p0001", "p0002")}
    backwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0002", "p0001", "p0000")}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3


def test_the_first_patient_is_the_one_of_this_version():
    anatomy = SMALL.anatomy("p0000", {})
    counts = np.bincount(anatomy.fine.ravel(), minlength=len(INDEX))
    known = (
        11849,
        170,
        4195,
        2313,
        102,
        266,
        65,
        61,
        345,
        228,
        76,
        14,
        19,
        60,
        14,
        47,
        1588,
        396,
        89,
        125,
        60,
        44,
        70,
        402,
        290,
        98,
        54,
    )
    assert AbdomenPhantom.version == 2
    assert np.abs(counts - known).max() <= 3  # single voxels may differ between CPU types
    assert anatomy.instances.max() == 3
    assert anatomy.values["T1_ms_1.5T"].mean() == pytest.approx(1086.7288, rel=1e-5)
    assert anatomy.values["HU"][5] == pytest.approx(712.1754, rel=1e-5)


def test_another_seed_gives_other_patients_and_another_digest():
    other = AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, seed=1)
    assert other.digest != SMALL.digest
    assert bytes_of(other.anatomy("p0000", {})) != bytes_of(SMALL.anatomy("p0000", {}))


def test_the_digest_changes_with_every_field():
    changed = [
        AbdomenPhantom(patients=13, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm),
        AbdomenPhantom(patients=12, shape=(11, 48, 48), spacing_mm=SMALL.spacing_mm),
        AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=(8.0, 8.0, 7.0)),
        AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, supersampling=(1, 1, 1)),
    ]
    assert len({d.digest for d in changed} | {SMALL.digest}) == 5
    assert AbdomenPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm).digest == SMALL.digest


def test_a_patient_does_not_depend_on_how_many_there_are():
    more = AbdomenPhantom(patients=40, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm)
    assert bytes_of(more.anatomy("p0003", {})) == bytes_of(SMALL.anatomy("p0003", {}))


def test_a_larger_lesion_load_keeps_everything_but_the_lesions():
    case = first_with_lesion({})
    few, many = SMALL.anatomy(case, {"lesion_load": 1.0}), SMALL.anatomy(case, {"lesion_load": 8.0})
    changed = few.tissue != many.tissue
    assert changed.any()
    names = np.array(SMALL.fine_labels)[many.values["fine_label"].astype(int)[many.tissue[changed]]]
    lesion = {"tumour", "tumour_rim", "cyst"}
    assert set(names) <= lesion | {"liver"}  # liver: the outer edge of a tumour
    was = np.array(SMALL.fine_labels)[few.values["fine_label"].astype(int)[few.tissue[changed]]]
    assert set(was) <= lesion | {"liver", "hilum", "portal_vessel", "hepatic_vessel"}
    shared = len(few.values["PD"])
    assert all(np.array_equal(few.values[k], many.values[k][:shared]) for k in few.values)
    assert np.array_equal(few.texture, many.texture)
    assert np.isin(many.fine, LESIONS).sum() > np.isin(few.fine, LESIONS).sum()
    assert many.instances.max() >= few.instances.max()


def test_number_and_volume_of_lesions_grow_with_the_load():
    volumes, counts = [], []
    for load in (0.25, 1.0, 4.0):
        anatomies = [SMALL.anatomy(c.case_id, {"lesion_load": load, "empty_prevalence": 0.0}) for c in SMALL.cases()]
        volumes.append(sum(np.count_nonzero(np.isin(a.fine, LESIONS)) for a in anatomies))
        counts.append([a.attributes["tumours"] + a.attributes["cysts"] for a in anatomies])
    assert 1.3 * volumes[0] < volumes[1] and 1.3 * volumes[1] < volumes[2]
    assert np.all(np.diff(counts, axis=0) >= 0) and sum(counts[0]) < sum(counts[1]) < sum(counts[2])


def test_habitus_adds_fat_outside_and_changes_no_organ():
    lean, large = SMALL.anatomy("p0001", {}), SMALL.anatomy("p0001", {"habitus_mm": 30.0})
    changed = lean.tissue != large.tissue
    assert changed.sum() > 0.02 * changed.size
    assert set(np.unique(lean.values["fine_label"][lean.tissue[changed]])) == {INDEX["outside"], INDEX["skin"]}
    assert set(np.unique(large.values["fine_label"][large.tissue[changed]])) == {INDEX["fat"], INDEX["skin"]}
    assert all(np.array_equal(lean.values[k], large.values[k]) for k in lean.values)
    assert np.array_equal(lean.texture, large.texture)


def test_prevalence_decides_who_has_a_lesion_and_is_nested():
    coarse = AbdomenPhantom(patients=12, shape=(8, 24, 24), spacing_mm=(10.0, 16.0, 16.0))

    def with_lesion(share: float) -> set[str]:
        found = [coarse.anatomy(c.case_id, {"empty_prevalence": share}) for c in coarse.cases()]
        return {a.case_id for a in found if a.attributes["tumours"] + a.attributes["cysts"] > 0}

    everybody = {c.case_id for c in coarse.cases()}
    none, some, all_ = with_lesion(1.0), with_lesion(0.5), with_lesion(0.0)
    assert none == set() and all_ == everybody
    assert set() < some < everybody
    assert with_lesion(0.7) <= some


def test_fine_labels_are_the_majority_of_the_tissues_in_a_voxel():
    anatomy = SMALL.anatomy("p0002", {})
    labels = anatomy.values["fine_label"].astype(int)[anatomy.tissue]
    d, h, w = SMALL.shape
    blocks = labels.reshape(d, h, 2, w, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
    fine = anatomy.fine.ravel()
    for i in range(0, len(fine), 37):
        counts = np.bincount(blocks[i], minlength=len(SMALL.fine_labels))
        assert counts[fine[i]] == counts.max()


def test_ties_of_the_majority_go_to_the_later_label():
    labels = np.array([[[1, 1], [3, 3]]], np.uint8)
    assert majority(labels, (1, 2, 2), 5).tolist() == [[[3]]]
    assert np.array_equal(majority(labels, (1, 1, 1), 5), labels)


def test_every_label_of_the_contract_exists_in_a_handful_of_patients():
    seen = set()
    for i in range(6):
        seen |= set(np.unique(SMALL.anatomy(f"p{i:04d}", {}).fine))
    assert seen == set(range(len(SMALL.fine_labels)))
    used = {f for names in SMALL.members.values() for f in names} | set(SMALL.optional_members)
    used |= {label for label, _ in SMALL.optional_members.items()}
    assert used <= set(SMALL.fine_labels) and SMALL.fine_labels[0] == "outside"


def test_instances_are_where_lesions_are_and_number_tumours_and_cysts_together():
    kinds = set()
    for i in range(6):
        anatomy = SMALL.anatomy(f"p{i:04d}", {"lesion_load": 4.0})
        assert np.array_equal(anatomy.instances > 0, np.isin(anatomy.fine, LESIONS))
        assert anatomy.instances.max() <= anatomy.attributes["tumours"] + anatomy.attributes["cysts"]
        for number in np.unique(anatomy.instances)[1:]:
            found = {SMALL.fine_labels[k] for k in np.unique(anatomy.fine[anatomy.instances == number])}
            assert found == {"cyst"} or found <= {"tumour", "tumour_rim"}
            kinds |= found
    assert kinds == {"cyst", "tumour", "tumour_rim"}


def test_lesions_too_small_for_a_voxel_are_not_labelled():
    coarse = AbdomenPhantom(patients=3, shape=(4, 12, 12), spacing_mm=(30.0, 32.0, 32.0))
    for case in coarse.cases():
        anatomy = coarse.anatomy(case.case_id, {"lesion_load": 0.05, "empty_prevalence": 0.0})
        assert anatomy.attributes["tumours"] + anatomy.attributes["cysts"] >= 1
        assert np.array_equal(anatomy.instances > 0, np.isin(anatomy.fine, LESIONS))
        assert all(bool(m.isfinite().all()) for m in tissue_maps(anatomy).values())


def test_hilum_and_vessels_are_large_enough_to_measure_a_protocol_with():
    grid = AbdomenPhantom(patients=8, shape=(20, 64, 64), spacing_mm=(4.0, 6.25, 6.25))
    counts = sum(
        np.bincount(grid.anatomy(c.case_id, {"empty_prevalence": 1.0}).fine.ravel(), minlength=len(INDEX))
        for c in grid.cases()
    )
    liver = counts[LIVER_PARTS].sum()
    assert 0.14 < counts[INDEX["hilum"]] / liver < 0.20
    assert 0.08 < (counts[INDEX["portal_vessel"]] + counts[INDEX["hepatic_vessel"]]) / liver < 0.12


def test_organs_have_plausible_volumes_and_vary_between_patients():
    grid = AbdomenPhantom(patients=8, shape=(50, 48, 48), spacing_mm=(6.0, 8.0, 8.0))
    counts = np.array(
        [np.bincount(grid.anatomy(c.case_id, {}).fine.ravel(), minlength=len(INDEX)) for c in grid.cases()]
    )
    ml = counts * 6 * 8 * 8 / 1000
    for volume, (low, high) in (
        (ml[:, [*LIVER_PARTS, *LESIONS]].sum(1), (600, 2600)),
        (ml[:, INDEX["spleen"]], (50, 500)),
        (ml[:, KIDNEY].sum(1), (120, 600)),
        (ml[:, INDEX["pancreas"]], (25, 200)),
    ):
        assert low < volume.min() and volume.max() < high and volume.std() > 0.05 * volume.mean()


def test_a_patient_is_alike_on_another_grid():
    coarse, fine = (SMALL.anatomy("p0004", {}), None)
    fine = AbdomenPhantom(patients=12, shape=(20, 96, 96), spacing_mm=(4.0, 4.0, 4.0)).anatomy("p0004", {})
    for name in ("muscle", "aorta", "spleen"):
        a = np.count_nonzero(coarse.fine == INDEX[name]) * 8.0**3
        b = np.count_nonzero(fine.fine == INDEX[name]) * 4.0**3
        assert a == pytest.approx(b, rel=0.15)


def test_texture_is_correlated_along_all_three_axes():
    texture = SMALL.anatomy("p0000", {}).texture
    fine = AbdomenPhantom(patients=1, shape=(24, 32, 32), spacing_mm=(4.0, 4.0, 4.0)).anatomy("p0000", {}).texture
    assert texture.shape == (2, *SMALL.shape) and abs(float(texture.mean())) < 0.02
    for axis in (1, 2, 3):
        a, b = (np.take(fine, np.arange(fine.shape[axis] - 1) + step, axis).ravel() for step in (0, 1))
        assert np.corrcoef(a, b)[0, 1] > 0.7


@pytest.mark.parametrize(
    ("case", "population", "message"),
    [
        ("p9999", {}, "unknown case"),
        ("p0000", {"lesion_laod": 1.0}, "did you mean 'lesion_load'"),
        ("p0000", {"habitus_mm": -3.0}, "use a value"),
        ("p0000", {"empty_prevalence": float("nan")}, "use a value"),
    ],
)
def test_an_unknown_case_or_population_is_refused_with_a_remedy(case, population, message):
    with pytest.raises(DataError, match=message):
        SMALL.anatomy(case, population)


IDENTITY = {key: identity for key, (identity, _, _) in SMALL.population_keys.items()}


@pytest.mark.parametrize("key", sorted(SMALL.population_keys))
def test_a_population_key_at_its_identity_changes_no_bit(key):
    case = first_with_lesion({})
    assert bytes_of(SMALL.anatomy(case, {key: IDENTITY[key]})) == bytes_of(SMALL.anatomy(case, {}))
    _, low, high = SMALL.population_keys[key]
    other = low if key == "cyst_share" else high
    assert bytes_of(SMALL.anatomy(case, {key: other})) != bytes_of(SMALL.anatomy(case, {}))


@pytest.mark.parametrize(
    ("key", "values", "labels", "sign"),
    [
        ("lesion_median_mm3", (1e3, 8e3, 3.2e4, 6.4e4), ("tumour", "tumour_rim", "cyst"), 1),
        ("cyst_share", (0.0, 0.2, 0.6, 1.0), ("cyst",), 1),
        ("cyst_share", (0.0, 0.2, 0.6, 1.0), ("tumour", "tumour_rim"), -1),
        ("organ_scale", (0.6, 0.8, 1.0, 1.2), ("liver", "spleen", "kidney_cortex", "muscle"), 1),
        ("liver_z", (-3.0, -1.0, 0.0, 2.0), ("liver", "hilum", "portal_vessel", "hepatic_vessel"), 1),
        ("age_years_added", (0.0, 10.0, 30.0, 50.0), ("muscle",), -1),
        ("habitus_mm", (0.0, 5.0, 20.0, 30.0), ("fat",), 1),
    ],
)
def test_a_population_key_is_monotone_within_a_patient(key, values, labels, sign):
    wanted = [INDEX[label] for label in labels]
    totals = np.zeros(len(values))
    for case in ("p0000", "p0001", "p0002"):
        population = {"empty_prevalence": 0.0 if key in ("lesion_median_mm3", "cyst_share") else 1.0}
        volumes = [int(np.isin(SMALL.anatomy(case, {**population, key: v}).fine, wanted).sum()) for v in values]
        assert (
            sign * np.diff(volumes.copy() if isinstance(volumes, np.ndarray) else np.array(volumes, int)) >= 0
        ).all()
        totals += volumes
    assert (sign * np.diff(totals) > 0).all()


@functools.cache
def without_lesion(*population: tuple[str, float]) -> Anatomy:
    grid = AbdomenPhantom(patients=2, shape=(2, 24, 24), spacing_mm=(20.0, 16.0, 16.0), supersampling=(1, 1, 1))
    return grid.anatomy("p0001", {"empty_prevalence": 1.0, **dict(population)})


def values_of(label: str, name: str, population: dict[str, float]) -> np.ndarray:
    """A property of the tissues of a fine label in a patient without lesion."""
    anatomy = without_lesion(*population.items())
    return anatomy.values[name][anatomy.values["fine_label"] == INDEX[label]]


def test_liver_fat_is_the_requested_share_and_lowers_ct_numbers_of_the_liver_alone():
    for pdff in (3.0, 8.0, 25.0, 45.0):
        changed = {"pdff_percent": pdff}
        assert values_of("liver", "FAT", changed) == pytest.approx(pdff / 100, rel=1e-6)
        for phase in ("HU_unenhanced", "HU_portal_venous"):
            drop = values_of("liver", phase, changed) - values_of("liver", phase, {})
            assert drop == pytest.approx(-1.7 * (pdff - 3), abs=1e-3)
        for label in ("spleen", "pancreas", "muscle", "kidney_cortex", "portal_vessel"):
            assert np.array_equal(values_of(label, "HU", changed), values_of(label, "HU", {}))
            assert np.array_equal(values_of(label, "T1_ms_1.5T", changed), values_of(label, "T1_ms_1.5T", {}))
    t1 = [float(values_of("liver", "T1_ms_1.5T", {"pdff_percent": f})[0]) for f in (3.0, 15.0, 45.0)]
    assert t1 == sorted(t1, reverse=True)
    assert values_of("spleen", "HU_unenhanced", {})[0] > values_of("liver", "HU_unenhanced", {"pdff_percent": 35.0})[0]


def test_liver_iron_adds_to_r2star_twice_as_much_at_3_tesla_and_spares_other_organs():
    for r2star in (80.0, 300.0, 1000.0):
        changed = {"iron_r2star": r2star}
        for field, factor in (("1.5", 1.0), ("3", 2.0)):
            name = f"T2star_ms_{field}T"
            added = 1000 / values_of("liver", name, changed) - 1000 / values_of("liver", name, {})
            assert added == pytest.approx(factor * (r2star - 40), rel=1e-4)
        assert (values_of("liver", "T2_ms_1.5T", changed) < values_of("liver", "T2_ms_1.5T", {})).all()
        assert np.array_equal(values_of("liver", "T1_ms_1.5T", changed), values_of("liver", "T1_ms_1.5T", {}))
        for label in ("spleen", "pancreas", "muscle", "kidney_medulla"):
            assert np.array_equal(values_of(label, "T2star_ms_3T", changed), values_of(label, "T2star_ms_3T", {}))


def test_a_fatty_liver_leaves_its_tumours_as_they_are():
    case = first_with_lesion({"cyst_share": 0.0, "empty_prevalence": 0.0})
    one, two = (
        SMALL.anatomy(case, {"cyst_share": 0.0, "empty_prevalence": 0.0, "pdff_percent": f}) for f in (3.0, 35.0)
    )
    tumour = one.values["fine_label"] == INDEX["tumour"]
    assert tumour.any() and np.array_equal(one.tissue, two.tissue)
    assert np.array_equal(one.values["HU"][tumour], two.values["HU"][tumour])
    assert np.array_equal(one.values["T1_ms_3T"][tumour], two.values["T1_ms_3T"][tumour])


def test_hypovascular_tumours_are_darker_than_the_liver_in_the_arterial_phase_and_hcc_brighter():
    def contrasts(share: float) -> np.ndarray:
        found = []
        for case in ("p0000", "p0001", "p0002", "p0003"):
            values = SMALL.anatomy(
                case, {"hypovascular_share": share, "cyst_share": 0.0, "empty_prevalence": 0.0}
            ).values
            tumours = values["HU_late_arterial"][values["fine_label"] == INDEX["tumour"]]
            found.append(tumours - values["HU_late_arterial"][values["fine_label"] == INDEX["liver"]][0])
        return np.concatenate(found)

    assert contrasts(1.0).mean() < -15 and contrasts(0.0).mean() > 5


def test_age_and_sex_are_known_before_the_patient_is_drawn_and_years_are_added_to_the_age():
    cases = {c.case_id: c.attributes for c in AbdomenPhantom(patients=40).cases()}
    ages = np.array([a["age"] for a in cases.values()])
    assert {a["sex"] for a in cases.values()} == {"male", "female"} and 8 < ages.std() < 22
    anatomy, older = SMALL.anatomy("p0001", {}), SMALL.anatomy("p0001", {"age_years_added": 10.0})
    assert anatomy.attributes["age"] == cases["p0001"]["age"] and anatomy.attributes["sex"] == cases["p0001"]["sex"]
    assert older.attributes["age"] == pytest.approx(cases["p0001"]["age"] + 10)
    marrow = [float(a.values["FAT"][a.values["fine_label"] == INDEX["vertebra"]].max()) for a in (anatomy, older)]
    assert marrow[1] - marrow[0] == pytest.approx(0.06, abs=1e-6)
    assert SMALL.anatomy("p0001", {"pdff_percent": 20.0}).attributes["pdff_percent"] == 20.0


def test_a_lesion_lies_at_the_same_place_on_another_grid():
    coarse = AbdomenPhantom(patients=2, shape=(20, 50, 50), spacing_mm=(4.0, 8.0, 8.0))
    fine = AbdomenPhantom(patients=2, shape=(40, 100, 100), spacing_mm=(4.0, 4.0, 4.0))
    population = {"empty_prevalence": 0.0, "cyst_share": 0.0}
    one, two = coarse.anatomy("p0001", population), fine.anatomy("p0001", population)
    shared = set(np.unique(one.instances)) & set(np.unique(two.instances[10:30])) - {0}
    assert shared
    for number in shared:
        a = np.argwhere(one.instances == number).mean(0)[1:] * 8 - 196
        b = np.argwhere(two.instances[10:30] == number).mean(0)[1:] * 4 - 198
        assert np.abs(a - b).max() < 4


def test_the_poisson_quantile_is_that_of_the_distribution_function():
    assert [poisson_quantile(u, 3.0) for u in (0.01, 0.0498, 0.2, 0.6, 0.9, 0.998)] == [0, 1, 2, 3, 5, 9]


def test_the_fat_of_the_renal_sinus_and_the_retrohepatic_cava_are_parts_of_their_own():
    grid = AbdomenPhantom(patients=6, shape=(24, 64, 64), spacing_mm=(5.0, 6.25, 6.25))
    for i in range(6):
        anatomy = grid.anatomy(f"p{i:04d}", {})
        counts = np.bincount(anatomy.fine.ravel(), minlength=len(INDEX))
        assert 0.03 < counts[INDEX["renal_sinus"]] / counts[KIDNEY].sum() < 0.35
        assert 0.15 < counts[INDEX["kidney_medulla"]] / counts[KIDNEY].sum() < 0.50
        assert counts[INDEX["retrohepatic_cava"]] > 0 and counts[INDEX["vena_cava"]] > 0 and counts[INDEX["aorta"]] > 0


@pytest.mark.parametrize("row", POPULATIONS.values(), ids=lambda row: row.name)
def test_a_population_operator_speaks_the_language_of_its_phantoms(row):
    assert row.phantoms and row.reference and row.key
    for name in row.phantoms:
        identity, low, high = PHANTOMS[name].population_keys[row.key]
        assert row.identity == identity and low <= row.range[0] < row.range[1] <= high
    assert all(row.range[0] <= value <= row.range[1] for value in row.levels) and len(row.levels) == 5
    if row.monotone:
        distances = [abs(value - row.identity) for value in row.levels]
        assert 0 < distances[0] and distances == sorted(distances) and len(set(distances)) == 5


def test_every_key_of_every_phantom_has_exactly_one_population_operator():
    for name, phantom in PHANTOMS.items():
        rows = [row.key for row in POPULATIONS.values() if name in row.phantoms]
        assert sorted(rows) == sorted(phantom.population_keys), name


def test_a_box_holds_every_voxel_whose_unwarped_position_is_in_it_and_no_shape_is_missed():
    rng = np.random.default_rng(0)
    grid = warped_grid((3, 40, 40), (4.0, 5.0, 5.0), (1, 1, 1), rng, scales=((60.0, 9.0),))
    for low in rng.uniform(-90, 60, (40, 3)) * (0.2, 1, 1):
        high = low + rng.uniform(2, 40, 3) * (0.3, 1, 1)
        wanted = np.all([(w >= a) & (w <= b) for w, a, b in zip(grid.where, low, high, strict=True)], axis=0)
        inside = np.zeros(grid.shape, bool)
        inside[grid.box(low, high)] = True
        assert not (wanted & ~inside).any()
        assert grid.meets(low[None], high[None])[0] or not wanted.any()
        assert grid.at_height((low[0] + high[0]) / 2, (high[0] - low[0]) / 2) or not wanted.any()
    everything = grid.box(grid.where.min(axis=(1, 2, 3)), grid.where.max(axis=(1, 2, 3)))
    assert all(part == slice(0, n) for part, n in zip(everything, grid.shape, strict=True))
    for height in (grid.where[0].min() - 5.0, grid.where[0].max() + 5.0):
        assert not grid.at_height(height, 4.0) and grid.at_height(height, 6.0)


def test_a_tissue_added_to_the_table_moves_no_other():
    first, more = dict(list(TISSUES.items())[:-1]), TISSUES
    canvases = [
        Canvas(grid_of_one(), lambda part: generator(1, part), ("outside", "liver"), known) for known in (first, more)
    ]
    assert canvases[0].varied("liver") == canvases[1].varied("liver") != TISSUES["liver"]
    assert canvases[1].varied("liver") == canvases[1].varied("liver")


def grid_of_one() -> Grid:
    return warped_grid((1, 1, 1), (1.0, 1.0, 1.0), (1, 1, 1), np.random.default_rng(0), scales=())
