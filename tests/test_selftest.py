"""Libraries that compute wrong values are found, named and refused before a score is written with them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import cc3d
import edt
import numpy as np
import pytest
import scipy.spatial
import skimage.morphology
import skimage.segmentation
from surface_distance import lookup_tables
from typer.testing import CliRunner

from shiftbench import selftest as module
from shiftbench.cli import app
from shiftbench.errors import OutputError
from shiftbench.selftest import BackendError, backends, golden, refusal, refuse_broken_backends, selftest
from shiftbench.selftest.check import Golden, checked
from shiftbench.worker import data
from shiftbench.worker.perform import Context, attempt

FORMS = {"organ", "tube", "lesions"}


@pytest.fixture(autouse=True)
def forgotten():
    """What was found before is not known."""
    module._first_problem.cache_clear()
    yield
    module._first_problem.cache_clear()


def without_spacing(mask, anisotropy=None, **options):
    return EDTSQ(mask, anisotropy=(1.0,) * mask.ndim, **options)


def with_a_phantom(mask, **options):
    """As scipy's transform: where there is no background, it is taken to be beside the array."""
    return np.where(np.isinf(EDTSQ(mask, **options)), 1.0, EDTSQ(mask, **options))


def by_faces(mask, connectivity=26, **options):
    return COMPONENTS(mask, connectivity=6 if mask.ndim == 3 else 4, **options)


def doubled(table):
    return lambda spacing: 2 * table(spacing)


def swapped(table):
    return lambda spacing: table(spacing[::-1])


def no_centre(mask, **options):
    return np.zeros(np.shape(mask), bool)


def raising(*_, **__):
    raise RuntimeError("no such function")


class NearTree(scipy.spatial.cKDTree):
    """A tree that finds a point which is only nearly the nearest."""

    def query(self, points, k=1, **options):
        distance, index = super().query(points, k, **options)
        return distance * 1.01, index


EDTSQ, COMPONENTS, PERCENTILE = edt.edtsq, cc3d.connected_components, np.percentile
LENGTHS = lookup_tables.create_table_neighbour_code_to_contour_length
AREAS = lookup_tables.create_table_neighbour_code_to_surface_area
BROKEN = {
    "an edt blind to spacing": (edt, "edtsq", without_spacing, "edt"),
    "an edt with background outside": (edt, "edtsq", with_a_phantom, "edt"),
    "an edt that raises": (edt, "edtsq", raising, "edt"),
    "another edt of the inside": (edt, "edt", lambda mask, **_: np.sqrt(EDTSQ(mask)), "edt"),
    "components by faces alone": (cc3d, "connected_components", by_faces, "connected-components-3d"),
    "one component for all": (
        *(cc3d, "connected_components", lambda mask, **_: mask.astype(np.uint32)),
        "connected-components-3d",
    ),
    "a tree that is nearly right": (backends, "cKDTree", NearTree, "scipy"),
    "boxes of labels from one on": (backends, "find_objects", lambda labels, n: [None] * n, "scipy"),
    "an assignment of the best pair first": (
        *(backends, "linear_sum_assignment", lambda weights, maximize: (np.arange(3), np.argmax(weights, 1))),
        "scipy",
    ),
    "lengths twice as long": (
        *(lookup_tables, "create_table_neighbour_code_to_contour_length", doubled(LENGTHS)),
        "surface-distance",
    ),
    "areas with axes the other way": (
        *(lookup_tables, "create_table_neighbour_code_to_surface_area", swapped(AREAS)),
        "surface-distance",
    ),
    "another percentile": (np, "percentile", lambda values, q: PERCENTILE(values, q, method="higher"), "numpy"),
    "thinning to nothing": (skimage.morphology, "skeletonize", no_centre, "scikit-image"),
    "no thinning": (skimage.morphology, "skeletonize", np.asarray, "scikit-image"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_library_is_found_and_refused_with_one_sentence_that_names_it(fault, monkeypatch):
    where, name, broken, package = BROKEN[fault]
    refuse_broken_backends(FORMS)
    module._first_problem.cache_clear()
    monkeypatch.setattr(where, name, broken)
    wrong = [check for check in selftest() if not check.ok]
    assert wrong and wrong[0].package == package
    with pytest.raises(
        BackendError, match=f"^{package} {wrong[0].version} fails the check .*; pip install .*\\.$"
    ) as error:
        refuse_broken_backends(FORMS)
    assert isinstance(error.value, OutputError) and str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_watershed_that_leaks_is_found(monkeypatch):
    plain = skimage.segmentation.watershed
    monkeypatch.setattr(
        skimage.segmentation, "watershed", lambda surface, markers, **o: plain(0 * surface, markers, **o)
    )
    assert [check.package for check in selftest() if not check.ok] == ["scikit-image"]


def test_every_library_in_use_is_looked_at_and_agrees():
    checks = selftest()
    assert [check for check in checks if not check.ok] == []
    assert {check.package for check in checks} == {
        *("edt", "scipy", "numpy", "surface-distance", "connected-components-3d", "scikit-image", "scikit-learn"),
        "shiftbench",
    }
    assert all(check.version[0].isdigit() and check.expected and check.found for check in checks)
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_a_golden_case_would_notice_another_value(case):
    measured = case.measure()
    for i, value in enumerate(case.expected):
        other = list(case.expected)
        other[i] = 1.0 if value is None else None if np.isinf(value) else value + 1e-4
        assert not checked([Golden(case.name, case.package, other, lambda: measured)])[0].ok


def test_a_check_tells_shapes_nothing_and_infinity_apart():
    same = [([1.0, None], [1.0, None]), ([np.inf], [np.inf]), ([1.0], [1.0 + 1e-8]), ([1], [1.0])]
    other = [
        ([1.0], [1.0, 1.0]),
        ([None], [0.0]),
        ([0.0], [None]),
        ([np.inf], [1e18]),
        ([1.0], [np.nan]),
        ([1.0], [1.001]),
    ]
    for pairs, ok in ((same, True), (other, False)):
        for expected, found in pairs:
            assert checked([Golden("one", "numpy", expected, lambda f=found: f)])[0].ok is ok, (expected, found)


def test_a_run_with_a_broken_library_stops_at_its_first_score(monkeypatch):
    task = {"structures": [["liver", 2.0, "organ"], ["tumour", 1.0, "lesions"]], "predict": "p", "test": {}}
    monkeypatch.setattr(cc3d, "connected_components", by_faces)
    answer = attempt(data.score, Context(None), "key", task)
    assert answer["fatal"] and not answer["ok"] and answer["cause"].startswith("connected-components-3d ")
    monkeypatch.setattr(cc3d, "connected_components", COMPONENTS)
    assert attempt(data.score, Context(None), "key", task)["cause"] == answer["cause"]  # a process looks once
    module._first_problem.cache_clear()
    assert "connected-components-3d" not in attempt(data.score, Context(None), "key", task)["cause"]


def test_a_run_is_not_stopped_by_a_library_that_its_structures_do_not_need(monkeypatch):
    monkeypatch.setattr(skimage.morphology, "skeletonize", no_centre)
    refuse_broken_backends({"organ", "lesions"})
    with pytest.raises(BackendError, match="scikit-image"):
        refuse_broken_backends({"tube"})


def test_a_library_that_cannot_be_imported_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "shiftbench.selftest.backends", None)
    monkeypatch.delattr(module, "backends")
    with pytest.raises(BackendError, match="cannot be imported"):
        refuse_broken_backends()


def test_a_disagreement_of_our_own_functions_asks_for_a_report():
    wrong = checked([Golden("one", "shiftbench", [1], lambda: [2])])[0]
    assert "shiftbench" in str(refusal(wrong)) and "report" in str(refusal(wrong))


def test_the_command_prints_a_line_per_check_and_json():
    done = CliRunner().invoke(app, ["selftest"])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == len(selftest())
    assert all(line.startswith("ok") for line in done.stdout.splitlines())
    listed = json.loads(CliRunner().invoke(app, ["selftest", "--json"]).stdout)
    assert len(listed) == len(selftest()) and {*listed[0]} == {"name", "package", "version", "expected", "found", "ok"}


def test_the_command_ends_with_a_sentence_and_an_exit_code_where_a_library_disagrees(monkeypatch):
    monkeypatch.setattr(edt, "edtsq", without_spacing)
    done = CliRunner().invoke(app, ["selftest"])
    assert done.exit_code == 1 and "PROBLEM  edt" in done.stdout
    assert done.stderr.startswith("error: edt ") and len(done.stderr.splitlines()) == 1
    listed = json.loads(CliRunner().invoke(app, ["selftest", "--json"]).stdout)
    assert not all(check["ok"] for check in listed)


def test_the_selftest_needs_no_torch():
    script = "import sys\nfrom shiftbench.selftest import selftest\nselftest()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
