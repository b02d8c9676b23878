"""The brain phantom: same patient on every grid, folded cortex, ageing, lesions, tissue values."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt

from shiftbench.data.phantoms.brain import BrainPhantom
from shiftbench.data.phantoms.brain_folds import Waves, capsule_mm, ellipsoid_mm
from shiftbench.data.phantoms.brain_tissues import AGEING, BRAIN_TISSUES, patient_tissues
from shiftbench.data.phantoms.shapes import Grid
from shiftbench.data.phantoms.tissues import tissue_maps
from shiftbench.errors import DataError
from shiftbench.rng import generator
from shiftbench.shifts.mr import signal
from shiftbench.types import Anatomy

SMALL = BrainPhantom(patients=12, shape=(12, 48, 48), spacing_mm=(10.0, 4.6, 4.6))
CUBE = BrainPhantom(patients=6, shape=(48, 60, 52), spacing_mm=(3.0, 3.3, 3.3), supersampling=(1, 1, 1))
INDEX = {name: i for i, name in enumerate(SMALL.fine_labels)}
SPGR = {"sequence": "spgr", "tr_ms": 20.0, "te_ms": 4.0, "flip_deg": 20.0}
CASES = [case.case_id for case in SMALL.cases()]


def bytes_of(anatomy: Anatomy) -> str:
    h = hashlib.sha256()
    for array in (anatomy.fine, anatomy.instances, anatomy.tissue, anatomy.texture):
        h.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(anatomy.values):
        h.update(name.encode() + anatomy.values[name].tobytes())
    return h.hexdigest()


def is_any(anatomy: Anatomy, *names: str) -> np.ndarray:
    return np.isin(anatomy.fine, [INDEX[name] for name in names])


def seen(name: str, acquisition: dict) -> float:
    """Signal of a tabulated tissue at 1.5 T."""
    t = BRAIN_TISSUES[name]
    maps = {"T1_ms": t.t1_ms[0], "T2_ms": t.t2_ms[0], "T2star_ms": t.t2star_ms[0], "PD": t.pd}
    return float(signal({key: np.array([value], np.float32) for key, value in maps.items()}, acquisition)[0])


def painted_as(anatomy: Anatomy, *names: str) -> np.ndarray:
    """On the supersampled grid."""
    return np.isin(anatomy.values["fine_label"][anatomy.tissue], [INDEX[name] for name in names])


@pytest.fixture(scope="module")
def cubes() -> list[Anatomy]:
    return [CUBE.anatomy(case.case_id, {"empty_prevalence": 0.0}) for case in CUBE.cases()]


@pytest.fixture(scope="module")
def slabs() -> list[Anatomy]:
    """From the upper cerebellum to above the ventricles, in voxels smaller than the cortex is thick."""
    grid = BrainPhantom(patients=2, shape=(44, 120, 100), spacing_mm=(1.6, 1.6, 1.6), supersampling=(1, 1, 1))
    return [grid.anatomy(case.case_id, {}) for case in grid.cases()]


def faces_between(a: np.ndarray, b: np.ndarray) -> int:
    """Faces of voxels with one in `a` and the other in `b`."""
    count = 0
    for axis in range(a.ndim):
        low = tuple(slice(None, -1) if i == axis else slice(None) for i in range(a.ndim))
        high = tuple(slice(1, None) if i == axis else slice(None) for i in range(a.ndim))
        count += np.count_nonzero(a[low] & b[high]) + np.count_nonzero(b[low] & a[high])
    return count


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    forwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0000", "p0001", "p0002")}
    backwards = {c: bytes_of(SMALL.anatomy(c, {})) for c in ("p0002", "p0001", "p0000")}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3
    other = BrainPhantom(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm, seed=1)
    assert other.digest != SMALL.digest
    assert bytes_of(other.anatomy("p0000", {})) != forwards["p0000"]


def test_the_first_patient_is_the_one_of_this_version():
    anatomy = SMALL.anatomy("p0000", {})
    counts = np.bincount(anatomy.fine.ravel(), minlength=len(INDEX))
    known = (16331, 1283, 814, 72, 1853, 38, 1353, 2241, 2264, 217, 139, 709, 262, 43, 11, 18)
    assert BrainPhantom.version == 1
    assert np.abs(counts - known).max() <= 3  # single voxels may differ between CPU types
    assert anatomy.attributes == {"age": 73.0, "sex": "M", "lesions": 8.0}
    assert anatomy.values["T1_ms_1.5T"].mean() == pytest.approx(1244.373, rel=1e-5)


def test_a_single_slice_is_the_slice_of_the_volume():
    volume = BrainPhantom(shape=(5, 64, 64), spacing_mm=(5.0, 3.6, 3.6))
    single = BrainPhantom(shape=(1, 64, 64), spacing_mm=(5.0, 3.6, 3.6))
    for case in ("p0000", "p0002"):
        a, b = volume.anatomy(case, {}), single.anatomy(case, {})
        assert np.mean(a.tissue[2] != b.tissue[0]) < 1e-3  # rounding at borders alone
        assert all(np.array_equal(a.values[k], b.values[k]) for k in a.values)
        assert a.attributes == b.attributes


def test_a_patient_has_the_same_volumes_and_lesions_on_a_finer_grid():
    fine = BrainPhantom(patients=6, shape=(96, 80, 69), spacing_mm=(1.5, 2.475, 2.475), supersampling=(1, 1, 1))
    a, b = CUBE.anatomy("p0002", {}), fine.anatomy("p0002", {})
    for name in ("cortex", "white_matter", "csf", "deep_grey", "cerebellum", "ventricle", "skull"):
        coarse, exact = is_any(a, name).sum() * 3.0 * 3.3**2, is_any(b, name).sum() * 1.5 * 2.475**2
        assert coarse == pytest.approx(exact, rel=0.05), name
    assert a.attributes == b.attributes
    for number in range(1, int(a.attributes["lesions"]) + 1):
        if np.count_nonzero(a.instances == number) > 8:
            where = [
                (np.argwhere(x.instances == number).mean(0) - (np.array(x.fine.shape) - 1) / 2) * x.geometry.spacing
                for x in (a, b)
            ]
            assert np.linalg.norm(where[0] - where[1]) < 2.0


def test_every_fine_label_exists_in_a_handful_of_patients():
    seen = set()
    for case in CASES[:5]:
        seen |= set(np.unique(BrainPhantom(shape=(12, 64, 64), spacing_mm=(10.0, 3.6, 3.6)).anatomy(case, {}).fine))
    assert seen == set(range(len(SMALL.fine_labels)))
    used = {f for names in SMALL.members.values() for f in names} | set(SMALL.optional_members)
    assert used <= set(SMALL.fine_labels) and SMALL.fine_labels[0] == "outside"
    assert {s for s, _ in SMALL.optional_members.values()} <= set(SMALL.members)
    assert SMALL.reference_label in SMALL.fine_labels and set(SMALL.things) <= set(SMALL.members)


def test_ventricles_lie_in_white_matter_and_touch_neither_cortex_nor_skull(slabs):
    for anatomy in slabs:
        fluid = is_any(anatomy, "ventricle", "choroid_plexus")
        ring = binary_dilation(fluid) & ~fluid
        share = np.bincount(anatomy.fine[ring], minlength=len(INDEX)) / ring.sum()
        assert share[[INDEX[n] for n in ("outside", "scalp", "skull", "muscle", "dura")]].sum() == 0
        assert share[INDEX["cortex"]] < 0.02
        assert share[[INDEX[n] for n in ("white_matter", "deep_grey", "lesion", "lesion_rim")]].sum() > 0.8


def test_cortex_lies_between_fluid_and_white_matter(slabs):
    for anatomy in slabs:
        fluid, cortex = is_any(anatomy, "csf", "dura"), is_any(anatomy, "cortex")
        white = is_any(anatomy, "white_matter", "lesion", "lesion_rim")
        to_fluid = distance_transform_edt(~fluid, sampling=1.6)
        assert np.mean(to_fluid[cortex] < 5.5) > 0.97  # a ribbon, nowhere a lump
        touching = faces_between(white, cortex)
        assert faces_between(fluid, cortex) > 0.5 * touching
        assert faces_between(fluid, white) < 0.03 * touching
        cerebellum = is_any(anatomy, "cerebellum")
        assert faces_between(cerebellum, white) < 0.002 * touching
        assert faces_between(cerebellum, cortex) < 0.08 * faces_between(cerebellum, fluid)  # a tentorium in between


def test_the_cortex_is_folded(cubes):
    for anatomy in cubes:
        brain = is_any(anatomy, "cortex", "white_matter", "deep_grey", "lesion", "lesion_rim")
        box = brain.sum() ** (2 / 3) * 6  # faces of a cube of that volume
        assert faces_between(brain, ~brain) > 2.0 * box


def test_no_fluid_reaches_the_air(cubes):
    for anatomy in cubes:
        fluid = is_any(anatomy, "csf", "ventricle", "cortex")
        assert faces_between(fluid, is_any(anatomy, "outside")) == 0


def test_an_older_brain_has_larger_ventricles_thinner_cortex_and_more_fluid_in_the_same_head():
    for case in CASES[:4]:
        ages = [SMALL.anatomy(case, {"age_years_added": years}) for years in (0.0, 15.0, 30.0, 50.0)]
        for young, old in zip(ages, ages[1:], strict=False):
            inside, grown = (painted_as(a, "ventricle", "choroid_plexus") for a in (young, old))
            assert np.all(grown[inside]) and grown.sum() > inside.sum()
            assert painted_as(old, "csf").sum() > painted_as(young, "csf").sum()
            assert painted_as(old, "cortex").sum() < painted_as(young, "cortex").sum()
            for around in ("outside", "scalp", "skull"):
                assert np.array_equal(painted_as(old, around), painted_as(young, around))
            assert old.attributes["lesions"] == young.attributes["lesions"]
            assert old.attributes["sex"] == young.attributes["sex"]
            assert old.attributes["age"] > young.attributes["age"]


def test_age_lengthens_t1_and_iron_shortens_t2star_of_deep_grey_alone():
    def draw(part: str) -> np.random.Generator:
        return generator(0, part)

    young, old = patient_tissues(draw, 30.0), patient_tissues(draw, 70.0)
    for name in BRAIN_TISSUES:
        longer = old[name].t1_ms[0] / young[name].t1_ms[0]
        assert longer == pytest.approx(np.exp(0.0012 * 40) if name in AGEING else 1.0)
    assert all(old["pallidum"].t2star_ms[i] < young["pallidum"].t2star_ms[i] for i in (0, 1))
    assert old["white_matter"].t2star_ms == young["white_matter"].t2star_ms
    rate = [1000 / old["putamen"].t2star_ms[i] - 1000 / young["putamen"].t2star_ms[i] for i in (0, 1)]
    assert rate == pytest.approx([4.0, 8.0])  # proportional to the field


def test_tissue_values_vary_by_five_percent_and_together():
    def drawn(i: int) -> list[float]:
        table = patient_tissues(lambda part: generator(i, part), 40.0)
        return [np.log(table[name].t1_ms[0]) for name in ("white_matter", "cortex", "csf")]

    table = np.array([drawn(i) for i in range(300)])
    assert table.std(axis=0) == pytest.approx(0.05, abs=0.007)
    assert 0.35 < np.corrcoef(table.T)[0, 1] < 0.65


def test_a_larger_load_keeps_the_lesions_there_are_and_changes_nothing_else():
    for case in CASES[:4]:
        few, many = (SMALL.anatomy(case, {"lesion_load": x, "empty_prevalence": 0.0}) for x in (1.0, 8.0))
        lesion = painted_as(few, "lesion")
        assert np.all(painted_as(many, "lesion")[lesion])
        assert many.attributes["lesions"] >= few.attributes["lesions"]
        changed = few.tissue != many.tissue
        names = np.array(SMALL.fine_labels)[many.values["fine_label"].astype(int)[many.tissue[changed]]]
        assert changed.any() and set(names) <= {"lesion", "lesion_rim"}
        assert np.array_equal(few.texture, many.texture)


def test_number_and_volume_of_lesions_never_fall_with_the_load():
    volumes, counts = [], []
    for load in (0.25, 1.0, 4.0, 16.0):
        found = [SMALL.anatomy(c, {"lesion_load": load, "empty_prevalence": 0.0}) for c in CASES[:6]]
        volumes.append([painted_as(a, "lesion").sum() for a in found])
        counts.append([a.attributes["lesions"] for a in found])
    assert np.all(np.diff(volumes, axis=0) >= 0) and np.all(np.diff(np.sum(volumes, axis=1)) > 0)
    assert np.all(np.diff(counts, axis=0) >= 0) and sum(counts[0]) < sum(counts[1]) < sum(counts[3])


def test_the_median_size_changes_volumes_and_not_the_number():
    small, large = (
        [CUBE.anatomy(c, {"lesion_median_mm3": v, "empty_prevalence": 0.0}) for c in CASES[:4]] for v in (100.0, 1000.0)
    )
    assert [a.attributes["lesions"] for a in small] == [a.attributes["lesions"] for a in large]
    a, b = (sum(np.count_nonzero(x.instances) for x in group) for group in (small, large))
    assert 3 < b / a < 20


def test_the_location_prior_moves_lesions_between_ventricles_and_cortex():
    def near_ventricles(share: float) -> float:
        close = []
        for case in CASES[:4]:
            anatomy = CUBE.anatomy(case, {"periventricular_share": share, "empty_prevalence": 0.0, "lesion_load": 4.0})
            distance = distance_transform_edt(~is_any(anatomy, "ventricle", "choroid_plexus"), sampling=CUBE.spacing_mm)
            close += [distance[anatomy.instances == i].min() < 6 for i in np.unique(anatomy.instances)[1:]]
        return float(np.mean(close))

    none, half, every = near_ventricles(0.0), near_ventricles(0.5), near_ventricles(1.0)
    assert none < 0.25 < half < every and every > 0.75


def test_prevalence_decides_who_has_lesions_and_is_nested():
    def with_lesion(share: float) -> set[str]:
        found = [SMALL.anatomy(c, {"empty_prevalence": share}) for c in CASES]
        return {a.case_id for a in found if a.attributes["lesions"] > 0}

    none, some, all_ = with_lesion(1.0), with_lesion(0.5), with_lesion(0.0)
    assert none == set() and all_ == set(CASES)
    assert set() < some < all_ and with_lesion(0.7) <= some
    assert not SMALL.anatomy(CASES[0], {"empty_prevalence": 1.0}).instances.any()


def test_instances_are_where_lesions_are_and_nowhere_else(cubes):
    for anatomy in cubes:
        assert np.array_equal(anatomy.instances > 0, is_any(anatomy, "lesion"))
        assert anatomy.instances.max() <= anatomy.attributes["lesions"]


def test_each_sub_structure_costs_five_points_of_dsc_on_its_structure():
    grid = BrainPhantom(patients=6, shape=(24, 64, 64), spacing_mm=(5.0, 3.6, 3.6))
    counts = sum(np.bincount(grid.anatomy(c.case_id, {}).fine.ravel(), minlength=len(INDEX)) for c in grid.cases())
    for part, (structure, _) in grid.optional_members.items():
        without = sum(counts[INDEX[name]] for name in grid.members[structure])
        dsc = 2 * without / (2 * without + counts[INDEX[part]])
        assert dsc < 0.955, part  # of counts summed over patients, with the error of six patients


def test_structures_have_plausible_volumes_and_vary_between_patients(cubes):
    ml = np.array([np.bincount(a.fine.ravel(), minlength=len(INDEX)) for a in cubes]) * 3.0 * 3.3**2 / 1000
    for names, low, high in (
        (("cortex",), 380, 720),
        (("white_matter", "lesion", "lesion_rim"), 300, 650),
        (("deep_grey",), 35, 75),
        (("ventricle", "choroid_plexus"), 10, 120),
        (("cerebellum",), 90, 190),
    ):
        volume = ml[:, [INDEX[name] for name in names]].sum(1)
        assert low < volume.min() and volume.max() < high, names
        assert volume.std() > 0.03 * volume.mean()


def test_a_childs_head_is_the_same_head_but_smaller():
    adult, child = (CUBE.anatomy("p0001", {"head_scale": s, "empty_prevalence": 1.0}) for s in (1.0, 0.8))
    for names in (("cortex",), ("white_matter",), ("cerebellum",)):
        assert is_any(child, *names).sum() == pytest.approx(0.8**3 * is_any(adult, *names).sum(), rel=0.12)
    lesions = [
        np.count_nonzero(CUBE.anatomy("p0002", {"head_scale": s, "lesion_load": 4.0}).instances) for s in (1.0, 0.8)
    ]
    assert lesions[1] > 0.8**3 * 1.15 * lesions[0]  # their volume is in real mm3


def test_fluid_is_even_and_tissue_is_not():
    anatomy = SMALL.anatomy("p0000", {})
    fluid = is_any(anatomy, "csf", "ventricle", "eye")
    assert anatomy.texture[:, fluid].std() < 0.4 * anatomy.texture[:, is_any(anatomy, "white_matter")].std()


def test_the_export_changes_by_single_voxels_when_positions_are_rounded_differently():
    @dataclass(frozen=True)
    class Nudged(BrainPhantom):
        """As another processor might round."""

        def _grid(self, case_id, population):
            grid = super()._grid(case_id, population)
            noise = np.random.default_rng(0).uniform(-1, 1, grid.where.shape).astype(np.float32)
            return Grid(grid.axes, grid.where * (1 + np.float32(2e-7) * noise), grid.reach)

    exports = []
    for kind in (BrainPhantom, Nudged):
        anatomy = kind(patients=12, shape=SMALL.shape, spacing_mm=SMALL.spacing_mm).anatomy("p0002", {})
        maps = {
            k: np.asarray(v) for k, v in tissue_maps(anatomy, properties=("T1_ms", "T2_ms", "T2star_ms", "PD")).items()
        }
        exports.append(np.rint(4095 / 0.25 * signal(maps, SPGR)).clip(0, 4095))
    assert np.mean(exports[0] != exports[1]) < 2e-4 and exports[0].max() > 1000


def test_contrasts_are_those_of_one_coherent_source():
    def flair(name: str) -> float:
        return seen(name, {"sequence": "flair", "tr_ms": 9000.0, "te_ms": 120.0, "ti_ms": 2500.0})

    def t1w(name: str, flip_deg: float) -> float:
        return seen(name, SPGR | {"flip_deg": flip_deg})

    assert t1w("white_matter", 20) / t1w("cortex", 20) == pytest.approx(1.32, abs=0.02)
    assert t1w("white_matter", 5) / t1w("cortex", 5) == pytest.approx(0.92, abs=0.02)
    assert flair("white_matter") / flair("cortex") == pytest.approx(0.73, abs=0.02)
    assert flair("ms_lesion") / flair("white_matter") == pytest.approx(2.25, abs=0.25)
    assert flair("csf") < 0.15 * flair("cortex")
    order = ("fat", "white_matter", "pallidum", "thalamus", "putamen", "caudate", "cortex", "csf")
    assert [BRAIN_TISSUES[n].t1_ms[0] for n in order] == sorted(BRAIN_TISSUES[n].t1_ms[0] for n in order)
    assert all(t.t2star_ms[i] <= t.t2_ms[i] + 1 for t in BRAIN_TISSUES.values() for i in (0, 1))


def test_waves_have_unit_variance_and_their_gradient_is_right():
    points = np.random.default_rng(0).uniform(-90, 90, (3, 20_000)).astype(np.float32)
    waves = Waves.drawn(np.random.default_rng(1), 22.0, 24)
    value, gradient = waves.with_gradient(points)
    assert np.array_equal(value, waves.value(points)) and value.std() == pytest.approx(1.0, rel=0.1)
    for axis in range(3):
        step = np.zeros((3, 1), np.float32)
        step[axis] = 0.05
        slope = (waves.value(points + step) - waves.value(points - step)) / 0.1
        assert np.abs(slope - gradient[axis]).max() < 5e-3


def test_distances_are_in_mm():
    points = np.array([[0.0, 0, 0, 12], [0, 0, 9, 0], [0, 15, 0, 0]], np.float32)
    assert ellipsoid_mm(points, (0, 0, 0), (10, 10, 10)) == pytest.approx([-10, 5, -1, 2], abs=0.02)
    assert capsule_mm(points, (0, 0, -20), (0, 0, 20), 4.0, 4.0) == pytest.approx([-4, -4, 5, 8], abs=1e-3)


@pytest.mark.parametrize(
    ("case", "population", "message"),
    [
        ("p9999", {}, "unknown case"),
        ("p0000", {"lesion_laod": 1.0}, "did you mean 'lesion_load'"),
        ("p0000", {"age_years_added": -3.0}, "use a value from 0 to 60"),
        ("p0000", {"head_scale": 0.5}, "use a value from 0.6 to 1"),
        ("p0000", {"periventricular_share": float("nan")}, "use a value"),
    ],
)
def test_an_unknown_case_or_population_is_refused_in_one_sentence(case, population, message):
    with pytest.raises(DataError, match=message) as refusal:
        SMALL.anatomy(case, population)
    assert "\n" not in str(refusal.value)
