"""The certificate of operators: it holds for what is shipped, and it finds what does not hold."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from shiftbench.certificate import effects, physics
from shiftbench.certificate.certificate import as_markdown, certify, write
from shiftbench.certificate.reference_set import REFERENCE_SETS, candidates
from shiftbench.cli import app
from shiftbench.errors import OperatorError
from shiftbench.shifts import OPERATORS
from shiftbench.types import Family

FEW = ("rician_noise", "slice_thickness", "flip_angle", "left_right_flip")
SECONDS_EACH = {"ct_metal", "ct_beam_hardening", "ct_projection_dose", "bias_correction"}


@pytest.fixture(scope="module")
def certificate():
    return certify(FEW, cases=2, patients=0)


def test_what_is_shipped_holds_and_is_written_down(certificate, tmp_path):
    assert certificate.breaches == ()
    levels = certificate.levels()
    assert levels.groupby("operator").size().to_dict() == dict.fromkeys(FEW, 5)
    noise = levels[levels["operator"] == "rician_noise"]
    assert noise["achieved"].to_numpy() == pytest.approx(OPERATORS["rician_noise"].levels, rel=0.05)
    names = {path.name for path in write(certificate, tmp_path)}
    assert {"levels.csv", "cases.csv", "checks.csv", "certificate.md", "requested-against-achieved.png"} <= names
    assert "| rician_noise | snr | 40, 25, 15, 10, 6 SNR |" in (tmp_path / "certificate.md").read_text()
    assert pd.read_csv(tmp_path / "checks.csv")["passed"].all()


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - SECONDS_EACH))
def test_every_operator_achieves_what_is_asked_of_it(name):
    operator = OPERATORS[name]
    table = effects.effects(operator, 1)
    assert effects.breaches(operator, table) + effects.identity_breaches(operator, candidates(operator)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SECONDS_EACH))
def test_every_slow_operator_achieves_what_is_asked_of_it(name):
    test_every_operator_achieves_what_is_asked_of_it(name)


def test_the_measurements_on_test_objects_hold_for_every_operator():
    found = list(physics.checks([n for n in OPERATORS if n not in SECONDS_EACH]))
    assert [c for c in found if not c.passed] == []
    assert {"background mean", "slice profile, slanted edge", "noise in water"} <= {c.name for c in found}
    centroids = {c.operator for c in found if c.name == "image against labels"}
    assert {"rigid_motion", "slice_thickness", "in_plane_resolution", "ghosting", "ct_dose"} <= centroids


def test_an_operator_that_misses_its_value_is_a_breach():
    operator = OPERATORS["rician_noise"]
    table = effects.effects(operator, 1)
    off = table.assign(achieved=table["achieved"] * 1.2)
    off["error"] = (off["achieved"] / off["value"] - 1).abs()
    (breach,) = effects.breaches(operator, off)
    assert breach.startswith("rician_noise: ") and "% off (allowed 5%)" in breach


def test_an_operator_that_is_not_monotone_is_a_breach():
    operator = replace(OPERATORS["rician_noise"], tolerance=None)
    table = effects.effects(operator, 1)
    swapped = table.assign(achieved=table["achieved"].to_numpy()[[1, 0, 2, 3, 4]])
    (breach,) = effects.breaches(operator, swapped)
    assert "snr is not monotone in case 0" in breach


def test_an_image_with_nan_and_an_operator_without_a_set_are_breaches():
    operator = OPERATORS["gamma"]
    table = effects.effects(operator, 1)
    assert "NaN" in effects.breaches(operator, table.assign(nrmse=np.inf))[0]
    assert "no scan of the reference set" in effects.breaches(operator, table.iloc[:0])[0]


def test_a_severity_zero_that_changes_something_and_a_moved_label_are_breaches():
    changing = replace(OPERATORS["flip_angle"], identity=99.0)
    assert effects.identity_breaches(changing, candidates(changing)) == [
        "flip_angle: severity 0 changes the acquisition"
    ]
    from shiftbench.shifts.operator import LabelPolicy

    honest = OPERATORS["rician_noise"]
    lying = replace(honest, policy=LabelPolicy.CO_WARP)
    assert "labels are left against its label policy" in effects.identity_breaches(lying, candidates(honest))[0]


def test_a_check_that_is_off_does_not_pass():
    held = physics.Check("mean", "x", 100.0, 100.5, "a.u.", 0.01)
    assert held.passed and not replace(held, measured=102.0).passed and not replace(held, measured=np.nan).passed
    shift = physics.Check("centroid", "x", 0.0, 0.05, "voxel", 0.1, relative=False)
    assert shift.passed and not replace(shift, measured=0.2).passed


def test_every_operator_has_a_set_and_every_modality_has_one():
    for operator in OPERATORS.values():
        assert candidates(operator), operator.name
    assert {s.modality for s in REFERENCE_SETS} == {"mr", "ct", "grey", "rgb"}


def test_controls_and_faults_are_told_apart_from_shifts():
    families = {name: op.family for name, op in OPERATORS.items()}
    assert {n for n, f in families.items() if f is Family.CONTROL} == {"identity", "gain", "offset", "renoise"}
    assert {"wrong_spacing", "left_right_flip", "orientation", "mask_erosion", "missing_channel"} <= {
        n for n, f in families.items() if f is Family.FAULT
    }


def test_the_command_ends_with_an_error_where_there_is_a_breach(tmp_path, monkeypatch):
    good = CliRunner().invoke(app, ["certify", "gain", "--patients", "0", "--cases", "1", "--out", str(tmp_path / "a")])
    assert good.exit_code == 0 and "0 breaches" in good.output
    assert (tmp_path / "a" / "certificate.md").is_file()
    monkeypatch.setitem(OPERATORS, "gain", replace(OPERATORS["gain"], worse=-1))
    bad = CliRunner().invoke(app, ["certify", "gain", "--patients", "0", "--cases", "1", "--out", str(tmp_path / "b")])
    assert bad.exit_code == 1 and "1 breaches" in bad.output
    assert "not monotone" in (tmp_path / "b" / "certificate.md").read_text()
    with pytest.raises(OperatorError, match="did you mean 'gain'"):
        certify(["gian"])


def test_the_page_names_breaches_first(certificate):
    page = as_markdown(replace(certificate, breaches=("rician_noise: too weak",)))
    assert page.index("**breach**: rician_noise: too weak") < page.index("## Levels")
