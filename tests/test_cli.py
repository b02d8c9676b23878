"""The command line: one sentence for every mistake, a non-zero exit code, no traceback, nothing lost."""

import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from scenarios import TINY, write

RUN = """
name = "scans"
version = 1
question = "Does bad input end in one sentence?"
reason = "A test."
citation = "none"
dataset = "{dataset}"
dimension = "3d"
budget = "smoke"

[structures.organ]
tolerance_mm = 2.0

[[source]]
name = "here"

[[target]]
name = "noise"
family = "acquisition"
acquisition = [{{ operator = "gamma", levels = [5] }}]
"""
DESCRIPTION = """
name = "tinyscans"
version = 1
layout = "msd"
folder = ["tinyscans"]
modality = "mr"
licence = "CC0 1.0"
citation = "none"

[labels]
organ = 1
"""


def shiftbench(*arguments, **options):
    command = [sys.executable, "-m", "shiftbench.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def sentence(done, *words):
    """The one line on standard error, with `words` in it."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert "Traceback" not in done.stdout + done.stderr
    return lines[0]


def make_scans(folder, *, cases=10, change=lambda i, image, label: (image, label)):
    """A tiny MSD folder; `change` may spoil case `i`."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    pairs = []
    for i in range(cases):
        rng = np.random.default_rng(i)
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:12, 4:12, 4:12] = 1
        image = (100 + 50 * label + 5 * rng.standard_normal(label.shape)).astype(np.float32)
        image, label = change(i, image, label)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"c{i}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"c{i}.nii.gz")
        pairs.append(f'{{"image": "./imagesTr/c{i}.nii.gz", "label": "./labelsTr/c{i}.nii.gz"}}')
    (folder / "dataset.json").write_text(f'{{"name": "t", "training": [{", ".join(pairs)}]}}')
    return folder


@pytest.fixture
def scans(tmp_path):
    """(scenario file, --data argument) of ten sound cases, to be spoilt."""
    description = tmp_path / "tinyscans.toml"
    description.write_text(DESCRIPTION)
    scenario = tmp_path / "scans.toml"
    scenario.write_text(RUN.format(dataset=description))
    return scenario, tmp_path / "tinyscans", tmp_path / "out"


def spoilt(scans, change):
    scenario, folder, out = scans
    make_scans(folder, change=change)
    return shiftbench("run", scenario, "--data", f"tinyscans={folder}", "--out", out, "--method", "erm")


def nan_in(image):
    image[3, 3, 3] = np.nan
    return image


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, x, y: (nan_in(x) if i == 7 else x, y), ["c7", "NaN"]),
        (lambda i, x, y: (np.full_like(x, 5.0) if i == 7 else x, y), ["c7", "constant"]),
        (lambda i, x, y: (x, y[:-1] if i == 7 else y), ["c7", "shape"]),
        (lambda i, x, y: (x, np.where(y == 1, 9, y).astype(np.uint8) if i == 7 else y), ["c7", "9"]),
    ],
    ids=["nan", "constant", "shape", "label value"],
)
def test_a_bad_scan_stops_the_run_with_file_and_remedy(scans, change, words):
    sentence(spoilt(scans, change), *words)
    assert not (scans[2] / "rows.csv.gz").exists()


def test_a_truncated_nifti_is_named(scans):
    scenario, folder, out = scans
    make_scans(folder)
    whole = (folder / "imagesTr" / "c3.nii.gz").read_bytes()
    (folder / "imagesTr" / "c3.nii.gz").write_bytes(whole[: len(whole) // 2])
    done = shiftbench("run", scenario, "--data", f"tinyscans={folder}", "--out", out, "--method", "erm")
    sentence(done, "c3.nii.gz", "truncated")


def test_a_missing_data_folder_is_named_with_the_option(scans):
    scenario, folder, out = scans
    sentence(shiftbench("run", scenario, "--out", out), "tinyscans", "--data tinyscans=PATH")
    sentence(shiftbench("run", scenario, "--out", out, "--data", f"tinyscans={folder}"), str(folder), "does not exist")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rician_noise", "rician_nois", ["rician_nois", "did you mean 'rician_noise'?"]),
        ("lesion_load", "lesion_loud", ["lesion_loud", "did you mean 'lesion_load'?"]),
        ('hilum = "included"', 'hilun = "included"', ["hilun", "did you mean 'hilum'?"]),
        ('hilum = "included"', 'hilum = "maybe"', ["maybe", "included"]),
        ("levels = [3, 5]", "levels = [3, 7]", ["tiny.toml", "less than or equal to 5"]),
        ("levels = [3, 5]", "values = [-3.0]", ["-3"]),
        ("phantom/abdomen", "phantom/abdomin", ["phantom/abdomin", "did you mean 'phantom/abdomen'?"]),
        ("[structures.liver]", "[structures.livr]", ["livr", "did you mean 'liver'?"]),
    ],
)
def test_a_wrong_scenario_is_one_sentence(tmp_path, old, new, words):
    assert old in TINY
    path = write(tmp_path, TINY.replace(old, new, 1))
    sentence(shiftbench("run", path, "--out", tmp_path / "out", "--method", "erm"), *words)


def test_an_unknown_backbone_device_and_suite_are_refused(tmp_path):
    path = write(tmp_path)
    done = shiftbench("run", path, "--out", tmp_path / "o", "--method", "erm", "--backbone", "unet_b")
    sentence(done, "unet_b", "did you mean 'unet_bn'?")
    sentence(shiftbench("run", "quik", "--out", tmp_path / "p"), "did you mean 'quick'?")


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    sentence(shiftbench("run", write(tmp_path), "--out", tmp_path / "file"), "the path is a file")
    assert (tmp_path / "file").read_text() == "precious"
    sentence(shiftbench("leaderboard", tmp_path), "no leaderboard here")
    sentence(shiftbench("plot", tmp_path / "nowhere"), "no rows.csv.gz here")


def test_help_and_listings_print(tmp_path):
    for arguments, word in [
        (["--help"], "leaderboard"),
        (["list", "methods"], "tent_bn_episodic"),
        (["list", "scenarios"], "hippocampus"),
        (["list", "shifts"], "rician_noise"),
        (["list", "backbones"], "unet_bn_noskip"),
        (["list", "metrics"], "hd95_mm"),
        (["list", "datasets"], "CC BY-SA 4.0"),
    ]:
        done = shiftbench(*arguments)
        assert done.returncode == 0 and word in done.stdout, (arguments, done.stdout, done.stderr)


def test_show_writes_a_sheet_of_a_shift(tmp_path):
    done = shiftbench("show", "gamma", "--scenario", write(tmp_path), "--patients", 2, "--out", tmp_path / "show")
    assert done.returncode == 0, done.stderr
    png, svg = tmp_path / "show" / "gamma.png", tmp_path / "show" / "gamma.svg"
    assert png.stat().st_size > 10_000 and re.search("<svg", svg.read_text())
    sentence(shiftbench("show", "gama", "--out", tmp_path), "did you mean 'gamma'")


def test_show_writes_a_sheet_of_a_label_protocol(tmp_path):
    done = shiftbench("show", "hilum", "--scenario", write(tmp_path), "--patients", 1, "--wide", "--out", tmp_path)
    assert done.returncode == 0 and (tmp_path / "hilum.png").stat().st_size > 10_000, done.stderr


def test_check_exits_by_its_findings(tmp_path):
    from test_run import BROKEN

    (tmp_path / "broken.py").write_text(BROKEN.replace('("raise", "nan", "shape", "second", "die")', '("nan",)'))
    assert shiftbench("check", "erm").returncode == 0
    done = shiftbench("check", tmp_path / "broken.py")
    assert done.returncode == 1 and "failed" in done.stdout


def test_doctor_finds_this_environment_sound(tmp_path):
    done = shiftbench("doctor", "--out", tmp_path)
    assert "torch" in done.stdout and str(shutil.disk_usage(tmp_path).free // 2**30)[:1] in done.stdout
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
