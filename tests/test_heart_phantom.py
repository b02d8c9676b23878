"""The cardiac phantom: same bytes, one patient on every grid, a closed ring, the phases of a beat, its populations."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label as connected

from shiftbench.data.phantoms.heart import HeartPhantom
from shiftbench.data.phantoms.heart_space import column, united
from shiftbench.data.phantoms.heart_tissues import HEART_TISSUES
from shiftbench.data.phantoms.shapes import Grid, rotation
from shiftbench.data.phantoms.tissues import tissue_maps
from shiftbench.errors import DataError

SMALL = HeartPhantom(patients=8, shape=(10, 64, 64), spacing_mm=(9.0, 3.6, 3.6))
DENSE = HeartPhantom(patients=8, shape=(34, 64, 64), spacing_mm=(3.0, 2.8, 2.8), supersampling=(1, 1, 1))
TALL = replace(DENSE, shape=(40, 64, 64))  # every patient's base is in it
INDEX = {name: i for i, name in enumerate(HeartPhantom.fine_labels)}
MUSCLE = [INDEX["myocardium"], INDEX["scar"]]
INSIDE = [INDEX[name] for name in ("lv_cavity", "papillary", "trabeculae")]
NOBODY = {"scar_prevalence": 0.0}


def bytes_of(anatomy) -> str:
    h = hashlib.sha256()
    for array in (anatomy.fine, anatomy.instances, anatomy.tissue, anatomy.texture):
        h.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(anatomy.values):
        h.update(name.encode() + anatomy.values[name].tobytes())
    return h.hexdigest()


def counts(anatomy) -> np.ndarray:
    return np.bincount(anatomy.fine.ravel(), minlength=len(INDEX))


def millilitres(phantom: HeartPhantom, anatomy, *names: str) -> float:
    return sum(counts(anatomy)[INDEX[name]] for name in names) * float(np.prod(phantom.spacing_mm)) / 1000


def test_the_same_seed_gives_the_same_bytes_in_any_order_and_another_seed_does_not():
    forwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0000", "p0001")}
    backwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0001", "p0000")}
    assert forwards == backwards and len(set(forwards.values())) == 2
    other = HeartPhantom(patients=8, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, seed=1)
    assert other.digest != SMALL.digest
    assert bytes_of(other.anatomy("p0000", {})) != forwards["p0000"]


def test_a_slice_of_a_stack_is_the_same_patient_as_the_stack_and_as_a_finer_one():
    stack = HeartPhantom(patients=8, shape=(3, 64, 64), spacing_mm=(9.0, 3.6, 3.6)).anatomy("p0002", {})
    single = HeartPhantom(patients=8, shape=(1, 64, 64), spacing_mm=(9.0, 3.6, 3.6)).anatomy("p0002", {})
    assert np.mean(stack.fine[1] == single.fine[0]) > 0.999  # the warp is rounded in another order
    assert all(np.array_equal(stack.values[name], single.values[name]) for name in stack.values)
    fine = HeartPhantom(patients=8, shape=(1, 128, 128), spacing_mm=(9.0, 1.8, 1.8)).anatomy("p0002", {})
    for name in ("myocardium", "lv_cavity", "rv_cavity", "lung"):
        mine, other = counts(single)[INDEX[name]] * 4, counts(fine)[INDEX[name]]
        assert mine == pytest.approx(other, rel=0.12)


def test_every_fine_label_is_used_and_every_name_of_the_contract_exists():
    seen = np.sum([counts(SMALL.anatomy(f"p{i:04d}", {"scar_prevalence": 1.0})) for i in range(4)], axis=0)
    missing = [name for name, index in INDEX.items() if seen[index] == 0]
    assert missing in ([], ["spleen"])  # the spleen may lie outside the field of view
    used = {f for names in SMALL.members.values() for f in names} | set(SMALL.optional_members)
    assert used <= set(SMALL.fine_labels) and SMALL.fine_labels[0] == "outside"
    assert SMALL.reference_label in SMALL.fine_labels and set(SMALL.things) <= set(SMALL.members)


def test_slices_run_from_the_apex_to_the_base():
    for i in range(4):
        fine = TALL.anatomy(f"p{i:04d}", {}).fine
        area = np.isin(fine, INSIDE).sum(axis=(1, 2))
        assert area[area > 0][0] < 0.4 * area.max()  # the apex is narrow
        basal = np.flatnonzero((fine == INDEX["basal_lv"]).any(axis=(1, 2)))
        assert basal.min() > np.flatnonzero(area).min() and basal.max() > np.flatnonzero(area).max()
        assert (fine[-1] == INDEX["atrium"]).any() and not (fine[0] == INDEX["atrium"]).any()


@pytest.mark.parametrize("population", [NOBODY, {"scar_prevalence": 1.0}, {"phase": 1.0}])
def test_the_myocardium_is_a_closed_ring_around_the_cavity_in_middle_slices(population):
    phantom = HeartPhantom(patients=4, shape=(11, 96, 96), spacing_mm=(9.0, 2.4, 2.4))
    for i in range(4):
        fine = phantom.anatomy(f"p{i:04d}", population).fine
        open_above = np.isin(fine, [INDEX["basal_lv"], INDEX["atrium"]]).any(axis=(1, 2))
        planes = [plane for plane in fine[: np.flatnonzero(open_above)[0]] if np.isin(plane, INSIDE).any()]
        assert len(planes) >= 3
        for plane in planes:
            pieces, _ = connected(~np.isin(plane, MUSCLE))
            # what is inside the ring is not connected to what is outside
            assert pieces[0, 0] not in pieces[np.isin(plane, INSIDE)]


def test_papillary_muscles_are_as_large_as_measured_and_lie_in_the_cavity():
    phantom = HeartPhantom(patients=8, shape=(12, 96, 96), spacing_mm=(9.0, 2.4, 2.4))
    shares, costs = [], []
    for i in range(8):
        c = counts(phantom.anatomy(f"p{i:04d}", {}))
        wall, papillary, trabeculae = c[MUSCLE].sum(), c[INDEX["papillary"]], c[INDEX["trabeculae"]]
        mass, cavity = wall + papillary + trabeculae, c[INSIDE].sum()
        shares.append(papillary / mass)
        blood = c[INDEX["lv_cavity"]]
        costs.append((1 - 2 * wall / (wall + mass), 1 - 2 * blood / (blood + cavity)))
    assert 0.075 < np.mean(shares) < 0.10  # MESA: 8.9 %
    assert np.all(np.mean(costs, axis=0) > 0.05)  # DSC between the protocols, of the myocardium and of the cavity


def test_the_slices_beyond_the_mitral_plane_cost_five_points_of_the_left_ventricle():
    costs = []
    for i in range(8):
        a = SMALL.anatomy(f"p{i:04d}", {})
        cavity, basal = millilitres(SMALL, a, "lv_cavity", "papillary", "trabeculae"), millilitres(SMALL, a, "basal_lv")
        costs.append(1 - 2 * cavity / (2 * cavity + basal))
    assert np.mean(costs) > 0.05


def test_a_beat_ejects_its_fraction_and_keeps_the_volume_of_the_wall():
    for i in range(4):
        phases = [DENSE.anatomy(f"p{i:04d}", {**NOBODY, "phase": p}) for p in (0.0, 0.5, 1.0)]
        walls = [millilitres(DENSE, a, "myocardium") for a in phases]
        cavities = [millilitres(DENSE, a, "lv_cavity", "papillary", "trabeculae") for a in phases]
        rights = [millilitres(DENSE, a, "rv_cavity") for a in phases]
        assert walls == pytest.approx([walls[0]] * 3, rel=0.06)
        assert 1 - cavities[2] / cavities[0] == pytest.approx(phases[0].attributes["ejection_fraction"], abs=0.06)
        assert cavities[0] > cavities[1] > cavities[2] and rights[0] > rights[1] > rights[2]


@pytest.mark.parametrize(
    ("key", "values", "names"),
    [
        ("wall_thickness_mm_added", (-2.0, 0.0, 4.0, 9.0), ("myocardium",)),
        ("dilation", (0.8, 1.0, 1.25, 1.5), ("lv_cavity",)),
        ("scar_load", (0.2, 1.0, 3.0, 8.0), ("scar",)),
        ("habitus_mm", (0.0, 5.0, 15.0), ("chest_wall",)),
        ("heart_scale", (0.5, 0.75, 1.0), ("myocardium", "lv_cavity", "rv_cavity")),
        ("phase", (1.0, 0.6, 0.3, 0.0), ("lv_cavity",)),
    ],
)
def test_more_of_a_population_key_is_more_of_what_it_names_in_every_patient(key, values, names):
    for i in range(3):
        volumes = []
        for value in values:
            anatomy = DENSE.anatomy(f"p{i:04d}", {"scar_prevalence": 1.0, key: value})
            volumes.append(millilitres(DENSE, anatomy, *names))
        assert np.all(np.diff(volumes) > 0), (key, i, volumes)


def test_habitus_adds_fat_outside_and_changes_nothing_else():
    lean, large = SMALL.anatomy("p0001", {}), SMALL.anatomy("p0001", {"habitus_mm": 20.0})
    changed = lean.tissue != large.tissue
    assert changed.any() and set(np.unique(lean.tissue[changed])) == {0}
    assert all(np.array_equal(lean.values[name], large.values[name]) for name in lean.values)


def test_a_child_is_an_adult_seen_on_a_larger_grid():
    child = HeartPhantom(patients=8, shape=(10, 64, 64), spacing_mm=(4.5, 1.8, 1.8)).anatomy(
        "p0003", {"heart_scale": 0.5}
    )
    ratio = counts(child)[INDEX["lv_cavity"]] / counts(SMALL.anatomy("p0003", {}))[INDEX["lv_cavity"]]
    assert ratio == pytest.approx(1, abs=0.1)  # the fine warp is that of the field of view


def test_the_prevalence_decides_who_has_a_scar_and_is_nested():
    coarse = HeartPhantom(patients=24, shape=(6, 24, 24), spacing_mm=(14.0, 9.0, 9.0))

    def scarred(share: float) -> set[str]:
        found = (coarse.anatomy(c.case_id, {"scar_prevalence": share, "scar_load": 8.0}) for c in coarse.cases())
        return {a.case_id for a in found if (a.fine == INDEX["scar"]).any()}

    assert scarred(0.0) == set() and len(scarred(1.0)) == 24
    assert set() < scarred(0.3) < scarred(0.7)


def test_a_scar_is_an_instance_within_the_wall_that_it_thins():
    healthy, scarred = (DENSE.anatomy("p0000", {"scar_prevalence": share}) for share in (0.0, 1.0))
    where = scarred.fine == INDEX["scar"]
    assert np.array_equal(scarred.instances > 0, where) and where.any() and healthy.instances.max() == 0
    assert set(np.unique(healthy.fine[where])) <= {*MUSCLE, *INSIDE}
    wall = [millilitres(DENSE, a, "myocardium", "scar") for a in (healthy, scarred)]
    assert 0.8 * wall[0] < wall[1] < wall[0]


def test_attributes_are_those_of_the_labels_and_of_the_person():
    anatomy = SMALL.anatomy("p0001", {"phase": 0.25})
    fine_ml = float(np.prod(SMALL.spacing_mm)) / 4 / 1000
    labels = anatomy.values["fine_label"].astype(int)[anatomy.tissue]
    assert anatomy.attributes["lv_mass_g"] == pytest.approx(1.05 * np.isin(labels, MUSCLE).sum() * fine_ml, abs=0.01)
    assert anatomy.attributes["phase"] == 0.25
    infos = HeartPhantom(patients=40).cases()
    assert {info.attributes["sex"] for info in infos} == {"F", "M"}
    assert all(
        20 <= info.attributes["age"] <= 88 and 0.4 < info.attributes["ejection_fraction"] < 0.75 for info in infos
    )
    assert anatomy.attributes["age"] == SMALL.cases()[1].attributes["age"]


def test_masses_and_volumes_are_those_of_adults():
    patients = [DENSE.anatomy(f"p{i:04d}", NOBODY) for i in range(8)]
    mass = [a.attributes["lv_mass_g"] for a in patients]
    cavity = [millilitres(DENSE, a, "lv_cavity", "papillary", "trabeculae") for a in patients]
    right = [millilitres(DENSE, a, "rv_cavity") for a in patients]
    for values, low, high in ((mass, 55, 260), (cavity, 60, 300), (right, 50, 300)):
        assert low < min(values) and max(values) < high and np.std(values) > 0.08 * np.mean(values)


def test_blood_is_brighter_than_muscle_on_a_balanced_cine_and_maps_are_finite():
    anatomy = SMALL.anatomy("p0000", {})
    maps = {name: np.asarray(values) for name, values in tissue_maps(anatomy).items()}
    assert all(np.isfinite(values).all() and values.shape == anatomy.tissue.shape for values in maps.values())
    labels = anatomy.values["fine_label"].astype(int)[anatomy.tissue]
    cos, e1, e2 = np.cos(np.radians(50)), np.exp(-3.2 / maps["T1_ms"]), np.exp(-3.2 / maps["T2_ms"])
    signal = maps["PD"] * (1 - e1) / (1 - (e1 - e2) * cos - e1 * e2)
    means = {name: signal[labels == INDEX[name]].mean() for name in ("lv_cavity", "rv_cavity", "myocardium", "lung")}
    assert means["lv_cavity"] > 2 * means["myocardium"] > 4 * means["lung"]
    assert means["rv_cavity"] > 1.5 * means["myocardium"]


def test_late_enhancement_makes_a_scar_bright_and_ct_follows_the_phase():
    table = HEART_TISSUES
    assert table["scar"].gd > 1.5 * table["myocardium"].gd and table["blood_arterial"].gd == 1.0
    assert table["blood_arterial"].hu[1] > 2 * table["myocardium"].hu[1] > 2 * table["scar"].hu[1] / 1.5
    assert all(t.t2star_ms[i] <= t.t2_ms[i] + 1 <= t.t1_ms[i] + 1 for t in table.values() for i in (0, 1))


def test_the_distance_to_an_elliptic_cylinder_is_exact_on_its_axes_in_any_box():
    axes = (np.array([-5.0, 5.0]), np.arange(-60.0, 60), np.arange(-60.0, 60))
    where = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    grid = Grid(axes, where, ((0.0, 0.0),) * 3)
    box, outside = column(grid, np.array([0.0, 0.0, 0.0]), np.eye(3), (20.0, 30.0), 4.0)
    y, x = box[1].start, box[2].start
    assert outside[0, 60 + 24 - y, 60 - x] == pytest.approx(4, abs=1e-4)
    assert outside[0, 60 - y, 60 - 27 - x] == pytest.approx(-3, abs=1e-4)
    tilted, outside = column(grid, np.array([0.0, 0.0, 0.0]), rotation(20, 25, -10), (20.0, 30.0), 4.0)
    everywhere = column(grid, np.array([0.0, 0.0, 0.0]), rotation(20, 25, -10), (20.0, 30.0), 100.0)[1]
    assert np.count_nonzero(outside <= 4) == np.count_nonzero(everywhere <= 4)  # the box cuts nothing off
    assert all(part.start > 0 for part in tilted[1:])


def test_a_groove_between_two_bodies_is_filled_and_nothing_else_moves():
    a, b = np.array([5.0, 1.0, -3.0]), np.array([5.0, 30.0, 20.0])
    joined = united(a, b, 8.0)
    assert joined[0] < 5 and joined[1:].tolist() == [1.0, -3.0]


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ({"dilatation": 1.2}, "did you mean 'dilation'"),
        ({"phase": 1.2}, "use a value from 0 to 1"),
        ({"scar_load": float("nan")}, "use a value"),
        ({"heart_scale": 0.0}, "use a value"),
    ],
)
def test_an_unknown_population_is_refused_with_a_remedy(population, message):
    with pytest.raises(DataError, match=message):
        SMALL.anatomy("p0000", population)
