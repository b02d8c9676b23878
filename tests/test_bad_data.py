"""Bad input: each gives one sentence that names the file, what is wrong in it, and a remedy."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from shiftbench.data.describe import load_description, parse_description
from shiftbench.data.folders import FolderDataset
from shiftbench.errors import DataError, ShiftBenchError, SpecError

GOOD = {
    "name": "tiny",
    "version": 1,
    "layout": "msd",
    "modality": "mr",
    "labels": {"a": 1, "b": [2, 5]},
    "licence": "CC0",
    "citation": "none",
}
SHAPE = (6, 7, 8)


def make_msd(root: Path, *, image=None, mask=None, mask_affine=None, ending: str = ".nii.gz") -> Path:
    """An MSD folder of one case `c1` that is good but for what is given."""
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) if image is None else image
    mask = np.ones(SHAPE, dtype=np.uint8) if mask is None else mask
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir()
    nib.save(nib.Nifti1Image(image, np.eye(4)), root / "imagesTr" / f"c1{ending}")
    nib.save(
        nib.Nifti1Image(mask, np.eye(4) if mask_affine is None else mask_affine), root / "labelsTr" / f"c1{ending}"
    )
    write_pairs(root, [{"image": f"imagesTr/c1{ending}", "label": f"labelsTr/c1{ending}"}])
    return root


def write_pairs(root: Path, pairs: list[dict[str, str]]) -> None:
    (root / "dataset.json").write_text(json.dumps({"training": pairs}))


def make_pictures(root: Path, *, image=None, mask=None, manifest: str = "case,image,label\nc1,c1.png,m1.png") -> Path:
    """An image-and-mask folder of one case that is good but for what is given."""
    image = np.arange(48, dtype=np.uint8).reshape(6, 8) if image is None else image
    mask = np.ones((6, 8), dtype=np.uint8) if mask is None else mask
    Image.fromarray(image).save(root / "c1.png")
    Image.fromarray(mask).save(root / "m1.png")
    (root / "manifest.csv").write_text(manifest)
    return root


def load(root: Path, **changes) -> None:
    dataset = FolderDataset(parse_description(GOOD | changes, where="tiny.toml"), root)
    for case in dataset.cases():
        dataset.anatomy(case.case_id, {})


def load_pictures(root: Path, **changes) -> None:
    load(root, **({"layout": "manifest", "modality": "grey", "spacing": "none"} | changes))


def refused(kind: type[ShiftBenchError], call, *args, **kwargs) -> str:
    """The message of the error that `call` raises, after checking that it is one sentence with a remedy."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and not message.endswith("..")
    assert caught.value.remedy, message
    return message


def contains(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


def test_good_folders_are_not_refused(tmp_path):
    for name in ("msd", "pictures"):
        (tmp_path / name).mkdir()
    load(make_msd(tmp_path / "msd"))
    load_pictures(make_pictures(tmp_path / "pictures"))


def test_a_missing_folder(tmp_path):
    contains(refused(DataError, load, tmp_path / "gone"), "gone: there is no such folder", "--data tiny=PATH")


@pytest.mark.parametrize("layout", ["msd", "nnunet", "manifest"])
def test_an_empty_folder_and_one_without_a_list_of_cases(tmp_path, layout):
    listing = "manifest.csv" if layout == "manifest" else "dataset.json"
    contains(refused(DataError, load, tmp_path, layout=layout), f"{tmp_path}: the folder is empty", listing)
    (tmp_path / "notes.txt").write_text("")
    contains(refused(DataError, load, tmp_path, layout=layout), f"{tmp_path}: the folder has no {listing}", "--data")


def test_a_dataset_json_that_is_not_json_or_lists_nothing(tmp_path):
    make_msd(tmp_path)
    write_pairs(tmp_path, [])
    contains(refused(DataError, load, tmp_path), "dataset.json: no case is listed")
    write_pairs(tmp_path, [{"image": "imagesTr/c1.nii.gz"}])
    contains(refused(DataError, load, tmp_path), "dataset.json: entry 0 of 'training'")
    (tmp_path / "dataset.json").write_text("{}")
    contains(refused(DataError, load, tmp_path), "dataset.json: the key 'training' is missing")
    (tmp_path / "dataset.json").write_text("{,")
    contains(refused(DataError, load, tmp_path), "dataset.json: is not valid JSON")


def test_a_listed_file_that_is_not_there(tmp_path):
    (make_msd(tmp_path) / "labelsTr" / "c1.nii.gz").unlink()
    contains(refused(DataError, load, tmp_path), "dataset.json: 'labelsTr/c1.nii.gz' of the case 'c1' is missing")


def test_a_case_that_is_listed_twice(tmp_path):
    pair = {"image": "imagesTr/c1.nii.gz", "label": "labelsTr/c1.nii.gz"}
    write_pairs(make_msd(tmp_path), [pair, pair])
    contains(refused(DataError, load, tmp_path), "dataset.json: the case 'c1' is listed twice")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_nifti_cut_anywhere_is_truncated(tmp_path, ending, kept, part):
    file = make_msd(tmp_path, ending=ending) / part / f"c1{ending}"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    contains(refused(DataError, load, tmp_path), f"{part}/c1{ending}: the file is truncated or not a NIfTI")


def test_a_nifti_with_damaged_bytes_or_of_another_kind(tmp_path):
    file = make_msd(tmp_path) / "imagesTr" / "c1.nii.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), b"not a nifti at all" * 50):
        file.write_bytes(damaged)
        contains(refused(DataError, load, tmp_path), "c1.nii.gz: the file is truncated or not a NIfTI")


def test_a_picture_that_is_cut_or_of_another_kind(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    file = make_pictures(tmp_path, image=noise, mask=np.ones_like(noise)) / "c1.png"
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"not a picture"):
        file.write_bytes(damaged)
        contains(refused(DataError, load_pictures, tmp_path), "c1.png: the file is truncated or not a picture")


def test_a_mask_of_another_shape(tmp_path):
    make_msd(tmp_path, mask=np.ones((6, 8, 7), dtype=np.uint8))
    message = refused(DataError, load, tmp_path)
    contains(message, "labelsTr/c1.nii.gz: the shape is 6 x 8 x 7", "c1.nii.gz has 6 x 7 x 8")


def test_a_mask_picture_of_another_shape(tmp_path):
    make_pictures(tmp_path, mask=np.ones((8, 6), dtype=np.uint8))
    contains(refused(DataError, load_pictures, tmp_path), "m1.png: the shape is 8 x 6", "c1.png has 6 x 8")


@pytest.mark.parametrize("change", ["shift", "scale", "flip"])
def test_a_mask_of_another_affine(tmp_path, change):
    affine = np.eye(4)
    affine[0] = {"shift": (1, 0, 0, 0.5), "scale": (1.1, 0, 0, 0), "flip": (-1, 0, 0, 5)}[change]
    make_msd(tmp_path, mask_affine=affine)
    contains(refused(DataError, load, tmp_path), "labelsTr/c1.nii.gz: the affine differs", "c1.nii.gz by up to", "mm")


def test_rounding_of_an_affine_is_not_refused(tmp_path):
    affine = np.eye(4)
    affine[:3, 3] = 0.001
    load(make_msd(tmp_path, mask_affine=affine))


def test_label_values_outside_the_map(tmp_path):
    mask = np.ones(SHAPE, dtype=np.uint8)
    mask[0, 0, :2] = (3, 7)
    make_msd(tmp_path, mask=mask)
    message = refused(DataError, load, tmp_path)
    contains(message, "labelsTr/c1.nii.gz: the mask holds 3, 7, which the label map does not name", "[labels]")
    load(tmp_path, background=[0, 3, 7])


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_labels_that_are_not_integers(tmp_path, value):
    mask = np.ones(SHAPE, dtype=np.float32)
    mask[0, 0, 0] = value
    make_msd(tmp_path, mask=mask)
    contains(
        refused(DataError, load, tmp_path),
        "labelsTr/c1.nii.gz: the mask holds values that are not integers",
        f"{value:g}",
    )


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    load(make_msd(tmp_path, mask=np.full(SHAPE, 2, dtype=np.float64)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_nan_or_infinity(tmp_path, value):
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    image[1, 2, 3:5] = value
    make_msd(tmp_path, image=image)
    contains(
        refused(DataError, load, tmp_path), "imagesTr/c1.nii.gz: the image holds NaN or infinity in 2 of 336 voxels"
    )


def test_a_constant_image_channel_or_picture(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    make_msd(tmp_path / "a", image=np.full(SHAPE, 7, dtype=np.float32))
    contains(refused(DataError, load, tmp_path / "a"), "imagesTr/c1.nii.gz: the image is constant")
    two = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    two[..., 1] = 0
    make_msd(tmp_path / "b", image=two)
    contains(refused(DataError, load, tmp_path / "b"), "imagesTr/c1.nii.gz: the image is constant")
    make_pictures(tmp_path / "c", image=np.full((6, 8), 9, dtype=np.uint8))
    contains(refused(DataError, load_pictures, tmp_path / "c"), "c1.png: the image is constant")


def test_colours_where_none_are_expected(tmp_path):
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    make_pictures(tmp_path / "image", image=colours)
    contains(
        refused(DataError, load_pictures, tmp_path / "image"), "c1.png: the picture has colours", 'modality = "rgb"'
    )
    make_pictures(tmp_path / "mask", mask=colours)
    contains(refused(DataError, load_pictures, tmp_path / "mask"), "m1.png: the mask is a colour picture")


def test_a_manifest_without_a_column_names_it_and_the_nearest(tmp_path):
    make_pictures(tmp_path, manifest="case,image,mask,pateint\nc1,c1.png,m1.png,p")
    contains(refused(DataError, load_pictures, tmp_path), "manifest.csv: there is no column 'label'", "known: case, ")
    message = refused(DataError, load_pictures, tmp_path, label="mask", patient="patient")
    contains(message, "there is no column 'patient'", "did you mean 'pateint'?")
    contains(refused(DataError, load_pictures, tmp_path, label="mask", attributes=["age"]), "there is no column 'age'")


def test_a_manifest_with_a_gap_or_without_cases(tmp_path):
    make_pictures(tmp_path, manifest="case,image,label\nc1,c1.png,\n")
    contains(refused(DataError, load_pictures, tmp_path), "manifest.csv: line 2 has no 'label'")
    (tmp_path / "manifest.csv").write_text("case,image,label,patient\nc1,c1.png,m1.png,\n")
    contains(refused(DataError, load_pictures, tmp_path, patient="patient"), "the case 'c1' has no 'patient'")
    (tmp_path / "manifest.csv").write_text("case,image,label\n")
    contains(refused(DataError, load_pictures, tmp_path), "manifest.csv: no case is listed")
    (tmp_path / "manifest.csv").write_bytes(b"case,image,label\nc\xe9,c1.png,m1.png")
    contains(refused(DataError, load_pictures, tmp_path), "manifest.csv: the manifest cannot be read", "UTF-8")


def test_a_patient_pattern_that_does_not_match(tmp_path):
    make_msd(tmp_path)
    message = refused(DataError, load, tmp_path, patient=r"Image_(\d+)")
    contains(message, "dataset.json", r"'Image_(\d+)' for 'patient' does not match the case 'c1'", "'tiny'")


def test_a_patient_in_two_parts_of_the_publishers_split(tmp_path):
    manifest = "case,image,label,part\nc1L,c1.png,m1.png,train\nc1R,c1.png,m1.png,test\n"
    make_pictures(tmp_path, manifest=manifest)
    message = refused(DataError, load_pictures, tmp_path, patient="(c1)", split="part")
    contains(message, "manifest.csv: the patient 'c1' is in two parts", "'train' (c1L)", "'test' (c1R)")


def test_a_case_that_is_not_in_the_folder(tmp_path):
    dataset = FolderDataset(parse_description(GOOD, where="tiny.toml"), make_msd(tmp_path))
    contains(refused(DataError, dataset.anatomy, "c2", {}), "no case 'c2'", "did you mean 'c1'?")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"lables": {}}, ["unknown key 'lables'", "did you mean 'labels'?"]),
        ({"modality": "mri"}, ["'modality' is 'mri'", "did you mean 'mr'?"]),
        ({"layout": "bids"}, ["'layout' is 'bids'", "known: manifest, msd, nnunet"]),
        ({"labels": {"a": "one"}}, ["'labels a' holds 'one', not an integer"]),
        ({"labels": {"a": []}}, ["'labels' names a structure without a value"]),
        ({"labels": {}}, ["'labels' names a structure without a value"]),
        ({"labels": {"a": 1, "b": 1}}, ["the mask value 1 stands for two things"]),
        ({"labels": {"a": 0}}, ["the mask value 0 stands for two things"]),
        ({"labels": {"outside": 1}}, ["'outside' is the name of the background"]),
        ({"patient": "(a)(b)"}, ["'patient' has 2 groups"]),
        ({"patient": "(a"}, ["'patient' is not a regular expression"]),
        ({"patient": "patient"}, ["'patient' names a column", "'manifest'"]),
        ({"attributes": ["age"]}, ["'attributes' names a column"]),
        ({"spacing": "mm"}, ["'spacing' is 'mm'", '"header"']),
        ({"resize": 2.0}, ["'resize' is 2.0", "less than or equal to 1"]),
        ({"resize": 0.5, "max_side": 64}, ["'resize' and 'max_side' exclude each other"]),
        ({"channels": "green"}, ["'channels' is for the modality 'rgb'"]),
        ({"version": "1"}, ["'version' is '1'", "valid integer"]),
    ],
)
def test_a_description_with_a_wrong_key_or_value(changes, parts):
    message = refused(SpecError, parse_description, GOOD | changes, where="tiny.toml")
    contains(message, "tiny.toml: ", *parts)


@pytest.mark.parametrize("key", ["licence", "citation", "labels"])
def test_a_description_without_a_required_key(key):
    table = {name: value for name, value in GOOD.items() if name != key}
    contains(refused(SpecError, parse_description, table, where="tiny.toml"), f"tiny.toml: the key '{key}' is missing")


def test_a_description_that_asks_for_what_the_files_cannot_give(tmp_path):
    for name in ("volumes", "pictures"):
        (tmp_path / name).mkdir()
    volumes, pictures = make_msd(tmp_path / "volumes"), make_pictures(tmp_path / "pictures")
    contains(refused(SpecError, load, volumes, resize=0.5), "dataset 'tiny': 'resize' and 'max_side' are for pictures")
    contains(refused(SpecError, load, volumes, spacing=[1.0, 1.0]), "the spacing of volumes is in their header")
    contains(refused(SpecError, load_pictures, pictures, spacing="header"), "pictures have no spacing in a header")
    contains(refused(SpecError, load_pictures, pictures, spacing=[1.0]), "'spacing' has 1 entries")


def test_a_description_that_cannot_be_read(tmp_path):
    contains(refused(SpecError, load_description, tmp_path / "gone.toml", tmp_path), "gone.toml: there is no such file")
    (tmp_path / "broken.toml").write_text("name = ")
    contains(refused(SpecError, load_description, "broken", tmp_path), "broken.toml: is not valid TOML")
    contains(
        refused(SpecError, load_description, "brokem", tmp_path), "unknown dataset 'brokem'", "did you mean 'broken'?"
    )
