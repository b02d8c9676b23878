"""Folders of real scans: three layouts, one axis order, and masks that stay on their images."""

import itertools
import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shiftbench.data.describe import Description, description_names, load_description
from shiftbench.data.folders import FolderDataset, locate, parse_places
from shiftbench.data.images import area_average, area_majority, canonical, read_volume
from shiftbench.errors import DataError, SpecError

DESCRIPTIONS = Path(__file__).parents[1] / "scenarios" / "datasets"
RAS_SHAPE, RAS_SPACING = (4, 5, 6), (0.5, 1.25, 3.0)
CODES = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def description(**changes) -> Description:
    table = {"name": "tiny", "version": 1, "layout": "msd", "modality": "mr", "labels": {"a": 1, "b": [2, 5]}}
    return Description(**(table | {"licence": "CC0", "citation": "none"} | changes))


def write_msd(root: Path, cases: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Path:
    """An MSD folder from case id -> (image, mask, affine)."""
    pairs = []
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for case_id, (image, mask, affine) in cases.items():
        name = f"{case_id}.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / name)
        nib.save(nib.Nifti1Image(mask, affine), root / "labelsTr" / name)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (root / "dataset.json").write_text(json.dumps({"training": pairs}))
    return root


def write_pictures(root: Path, cases: dict[str, tuple[np.ndarray, np.ndarray]], rows: str = "") -> Path:
    """An image-and-mask folder from case id -> (8-bit picture, mask), with a manifest."""
    root.mkdir(parents=True, exist_ok=True)
    for case_id, (image, mask) in cases.items():
        Image.fromarray(image).save(root / f"{case_id}.png")
        Image.fromarray(mask).save(root / f"{case_id}_mask.png")
    lines = [f"{case_id},{case_id}.png,{case_id}_mask.png" for case_id in cases]
    (root / "manifest.csv").write_text(rows or "\n".join(["case,image,label", *lines]))
    return root


def ras_scan() -> tuple[np.ndarray, np.ndarray]:
    """Image with a different value in every voxel, and a mask; axes (right, anterior, superior)."""
    image = np.arange(1, np.prod(RAS_SHAPE) + 1, dtype=np.float32).reshape(RAS_SHAPE)
    return image, np.array([0, 1, 2, 5], dtype=np.uint8)[(image.astype(int) * 7) % 4]


def stored_as(array: np.ndarray, affine: np.ndarray, axes, signs) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its axes permuted and flipped, by index arithmetic of our own."""
    to_old = np.zeros((4, 4))  # new index -> old index
    to_old[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        to_old[old, new] = sign
        to_old[old, 3] = 0 if sign > 0 else array.shape[old] - 1
    moved = array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    return moved, affine @ to_old


def rotation(degrees: float) -> np.ndarray:
    """About the axis (1, 2, 3), by Rodrigues' formula."""
    x, y, z = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("degrees", [0, 25], ids=["straight", "oblique"])
def test_all_48_axis_orders_give_the_same_arrays_in_slice_row_column_order(tmp_path, degrees):
    image, mask = ras_scan()
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(RAS_SPACING)
    affine[:3, 3] = (-7, 11, 3)
    cases = {}
    for i, (axes, signs) in enumerate(CODES):
        (moved, moved_affine), (moved_mask, _) = (stored_as(a, affine, axes, signs) for a in (image, mask))
        cases[f"c{i:02d}"] = (moved, moved_mask, moved_affine)
    dataset = FolderDataset(description(), write_msd(tmp_path / "data", cases))
    expected_fine = np.array([0, 1, 2, 0, 0, 2], dtype=np.int16)[mask.transpose(2, 1, 0)]
    for case in dataset.cases():
        anatomy = dataset.anatomy(case.case_id, {})
        np.testing.assert_array_equal(anatomy.image, image.transpose(2, 1, 0)[None])
        np.testing.assert_array_equal(anatomy.fine, expected_fine)
        assert anatomy.geometry.spacing == pytest.approx(RAS_SPACING[::-1], rel=1e-5)
        z, y, x = 5, 3, 2
        world = anatomy.geometry.affine @ (z, y, x, 1)
        np.testing.assert_allclose(world, affine @ (x, y, z, 1), atol=1e-4)


def test_a_nearly_45_degree_mask_takes_the_axes_of_its_image():
    image, mask = (array[..., None] for array in ras_scan())
    angles = np.deg2rad([44.9, 45.1])  # either side of the angle where the closest axes change
    affines = [np.eye(4), np.eye(4)]
    for affine, angle in zip(affines, angles, strict=True):
        affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shapes = {canonical(mask, affines[1], reference)[0].shape for reference in affines}
    assert len(shapes) == 2
    assert canonical(image, affines[0], affines[0])[0].shape == canonical(mask, affines[1], affines[0])[0].shape


def test_arrays_have_the_promised_types_and_labels_follow_the_description(tmp_path):
    image, mask = ras_scan()
    dataset = FolderDataset(description(), write_msd(tmp_path / "d", {"x": (image, mask, np.eye(4))}))
    anatomy = dataset.anatomy("x", {})
    assert (anatomy.image.dtype, anatomy.fine.dtype) == (np.float32, np.int16)
    assert dataset.fine_labels == ("outside", "a", "b")
    assert dataset.members == {"a": ("a",), "b": ("b",)}
    assert (anatomy.fine == 2).sum() == np.isin(mask, (2, 5)).sum() > 0


def test_slope_and_intercept_of_an_image_are_applied(tmp_path):
    image, mask = ras_scan()
    root = write_msd(tmp_path / "d", {"x": (image, mask, np.eye(4))})
    scaled = nib.Nifti1Image(image.astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(2.0, -1000.0)
    raw = tmp_path / "d" / "imagesTr" / "x.nii.gz"
    nib.save(scaled, raw)
    stored = nib.load(raw)
    expected = np.asarray(stored.dataobj.get_unscaled()) * stored.dataobj.slope + stored.dataobj.inter
    loaded = FolderDataset(description(), root).anatomy("x", {}).image[0]
    np.testing.assert_allclose(loaded, expected.transpose(2, 1, 0), rtol=1e-6)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_both_nifti_versions_in_either_byte_order_are_read(tmp_path, kind, endianness, ending):
    image = ras_scan()[0]
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.float32)
    path = tmp_path / f"x{ending}"
    nib.save(kind(image, np.diag([2.0, 3.0, 4.0, 1.0]), header), path)
    voxels, affine = read_volume(path)
    np.testing.assert_array_equal(voxels[..., 0], image)
    np.testing.assert_array_equal(affine, np.diag([2.0, 3.0, 4.0, 1.0]))


def test_the_fourth_axis_of_a_volume_becomes_the_channels(tmp_path):
    image, mask = ras_scan()
    two = np.stack([image, -image], axis=-1)
    dataset = FolderDataset(description(), write_msd(tmp_path / "d", {"x": (two, mask, np.eye(4))}))
    loaded = dataset.anatomy("x", {}).image
    np.testing.assert_array_equal(loaded, np.stack([image, -image]).transpose(0, 3, 2, 1))


def test_nnunet_channels_are_separate_files(tmp_path):
    image, mask = ras_scan()
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    for channel, factor in enumerate((1, 10)):
        nib.save(nib.Nifti1Image(image * factor, np.eye(4)), tmp_path / "imagesTr" / f"case_7_{channel:04d}.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "labelsTr" / "case_7.nii.gz")
    (tmp_path / "labelsTr" / "._case_7.nii.gz").write_text("left by a file manager")
    table = {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    dataset = FolderDataset(description(layout="nnunet"), tmp_path)
    assert [case.case_id for case in dataset.cases()] == ["case_7"]
    loaded = dataset.anatomy("case_7", {}).image
    np.testing.assert_array_equal(loaded[1], loaded[0] * 10)
    (tmp_path / "imagesTr" / "case_7_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="case_7_0001.nii.gz' is missing"):
        FolderDataset(description(layout="nnunet"), tmp_path)


@pytest.mark.parametrize("bits", [1, 8])
def test_a_mask_of_1_bit_reads_as_0_and_255(tmp_path, bits):
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 1:5] = True
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    stored = mask if bits == 1 else mask.astype(np.uint8) * 255
    root = write_pictures(tmp_path, {"x": (image, stored)})
    spec = description(layout="manifest", modality="grey", spacing="none", labels={"vessel": 255})
    anatomy = FolderDataset(spec, root).anatomy("x", {})
    np.testing.assert_array_equal(anatomy.fine, mask)
    np.testing.assert_array_equal(anatomy.image, image[None])
    assert anatomy.geometry.unit == "px"


@pytest.mark.parametrize(("channels", "expected", "modality"), [(None, [0, 1, 2], "rgb"), ("green", [1], "grey")])
def test_colour_pictures_give_three_channels_or_the_green_one(tmp_path, channels, expected, modality):
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 4), dtype=np.uint8)  # with transparency
    root = write_pictures(tmp_path, {"x": (image, np.zeros((6, 8), dtype=np.uint8))})
    spec = description(layout="manifest", modality="rgb", channels=channels, spacing="none")
    dataset = FolderDataset(spec, root)
    anatomy = dataset.anatomy("x", {})
    np.testing.assert_array_equal(anatomy.image, image.transpose(2, 0, 1)[expected])
    assert dataset.modality == anatomy.modality == modality


def test_the_luminance_of_a_colour_picture_is_a_grey_image(tmp_path):
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 100, 200, 50
    image[0, 0] = 0
    root = write_pictures(tmp_path, {"x": (image, np.zeros((2, 3), dtype=np.uint8))})
    spec = description(layout="manifest", modality="rgb", channels="luminance", spacing="none")
    anatomy = FolderDataset(spec, root).anatomy("x", {})
    assert anatomy.image.shape == (1, 2, 3) and anatomy.modality == "grey"
    assert anatomy.image[0, 1, 1] == pytest.approx(0.299 * 100 + 0.587 * 200 + 0.114 * 50)


def test_a_mask_of_instances_gives_one_structure_and_the_number_of_each_object(tmp_path):
    mask = np.array([[0, 7, 7, 0], [0, 0, 0, 300], [12, 12, 0, 300]], dtype=np.uint16)
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    root = write_pictures(tmp_path, {"x": (image, mask)})
    spec = description(layout="manifest", modality="grey", spacing="none", labels={"cell": 1}, instances="cell")
    dataset = FolderDataset(spec, root)
    anatomy = dataset.anatomy("x", {})
    np.testing.assert_array_equal(anatomy.fine, mask > 0)
    np.testing.assert_array_equal(anatomy.instances, [[0, 1, 1, 0], [0, 0, 0, 3], [2, 2, 0, 3]])
    assert dataset.things == ("cell",)
    with pytest.raises(ValueError, match="'instances' needs 'cell' as the only structure"):
        description(layout="manifest", modality="grey", spacing="none", instances="cell")


def test_only_the_selected_rows_of_a_manifest_are_in_the_dataset(tmp_path):
    image, mask = np.arange(12, dtype=np.uint8).reshape(3, 4), np.zeros((3, 4), np.uint8)
    rows = "case,image,label,site\n" + "\n".join(
        f"{c},{c}.png,{c}_mask.png,{s}" for c, s in zip("xyz", "ABC", strict=True)
    )
    root = write_pictures(tmp_path, dict.fromkeys("xyz", (image, mask)), rows)
    spec = description(layout="manifest", modality="grey", spacing="none", select={"site": ["A", "C"]})
    assert [case.case_id for case in FolderDataset(spec, root).cases()] == ["x", "z"]
    with pytest.raises(DataError, match="there is no column 'scanner'"):
        FolderDataset(description(layout="manifest", modality="grey", spacing="none", select={"scanner": "A"}), root)
    with pytest.raises(DataError, match="no case is listed"):
        FolderDataset(description(layout="manifest", modality="grey", spacing="none", select={"site": "D"}), root)


def test_resizing_scales_the_spacing_so_that_the_extent_stays(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (30, 50), dtype=np.uint8)
    root = write_pictures(tmp_path, {"x": (image, np.zeros((30, 50), dtype=np.uint8))})
    spec = description(layout="manifest", modality="grey", spacing=[0.2, 0.1], max_side=20)
    anatomy = FolderDataset(spec, root).anatomy("x", {})
    assert anatomy.image.shape == (1, 12, 20)
    assert anatomy.fine.shape == (12, 20)
    assert anatomy.geometry.spacing == pytest.approx((0.5, 0.25))


def overlaps(n_in: int, n_out: int) -> np.ndarray:
    """Share of each coarse pixel (rows) that each fine pixel covers, by brute force."""
    width = n_in / n_out
    lengths = [[max(0.0, min(j + 1, (i + 1) * width) - max(j, i * width)) for j in range(n_in)] for i in range(n_out)]
    return np.array(lengths) / width


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data(), st.integers(0, 2**16))
def test_area_average_is_the_mean_over_overlapping_areas(h, w, data, seed):
    shape = (data.draw(st.integers(1, h)), data.draw(st.integers(1, w)))
    image = np.random.default_rng(seed).normal(size=(2, h, w))
    expected = overlaps(h, shape[0]) @ image @ overlaps(w, shape[1]).T
    np.testing.assert_allclose(area_average(image, shape), expected, atol=1e-9)


def test_area_majority_keeps_a_structure_that_covers_half_and_the_largest_of_several():
    fine = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [2, 2, 1, 1], [0, 1, 2, 0]], dtype=np.int16)
    np.testing.assert_array_equal(area_majority(fine, (2, 2)), [[1, 0], [2, 1]])


def test_the_digest_follows_pixels_people_and_description_but_not_the_place_or_the_licence(tmp_path):
    image, mask = ras_scan()
    root = write_msd(tmp_path / "one", {"x": (image, mask, np.eye(4))})
    first = FolderDataset(description(), root).digest
    assert FolderDataset(description(licence="other", folder="elsewhere"), root).digest == first
    moved = tmp_path / "two"
    root.rename(moved)
    assert FolderDataset(description(), moved).digest == first
    swapped = description(labels={"b": [2, 5], "a": 1})
    by_patient = description(patient="(x)")
    assert len({first, FolderDataset(swapped, moved).digest, FolderDataset(description(version=2), moved).digest}) == 3
    assert FolderDataset(by_patient, moved).digest != first
    image[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(image, np.eye(4)), moved / "imagesTr" / "x.nii.gz")
    assert FolderDataset(description(), moved).digest != first


def test_the_digest_follows_the_columns_that_are_used_and_no_others(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    spec = description(layout="manifest", modality="grey", spacing="none", patient="patient", attributes=["age"])
    digests = []
    for patient, age, comment in [("p", 3, "a"), ("p", 3, "b"), ("q", 3, "a"), ("p", 4, "a")]:
        rows = f"case,image,label,patient,age,comment\nx,x.png,x_mask.png,{patient},{age},{comment}"
        root = write_pictures(tmp_path, {"x": (picture, np.zeros_like(picture))}, rows)
        digests.append(FolderDataset(spec, root).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert FolderDataset(spec, root).anatomy("x", {}).attributes == {"age": 4.0}


def test_a_dataset_survives_pickling_with_its_digest(tmp_path):
    image, mask = ras_scan()
    dataset = FolderDataset(description(), write_msd(tmp_path / "d", {"x": (image, mask, np.eye(4))}))
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.digest == dataset.digest
    np.testing.assert_array_equal(copy.anatomy("x", {}).image, dataset.anatomy("x", {}).image)


def test_real_patients_have_no_population_to_change(tmp_path):
    image, mask = ras_scan()
    dataset = FolderDataset(description(), write_msd(tmp_path / "d", {"x": (image, mask, np.eye(4))}))
    with pytest.raises(SpecError, match="'tiny' holds real patients.*'lesion_load'"):
        dataset.anatomy("x", {"lesion_load": 2.0})


def test_a_dataset_is_found_by_name_in_a_root_and_as_the_root_itself(tmp_path):
    spec = description(folder=["Task99_Tiny", "tiny_msd"])
    folder = tmp_path / "tiny_msd"
    folder.mkdir()
    assert locate("tiny", spec, roots=[tmp_path]) == folder
    assert locate("tiny", spec, roots=[folder]) == folder
    assert locate("tiny", spec, named={"tiny": tmp_path}, roots=[tmp_path]) == tmp_path
    with pytest.raises(DataError, match="no folder was given for the dataset 'tiny'; give --data tiny=PATH"):
        locate("tiny", spec)
    with pytest.raises(DataError, match="other: no folder 'Task99_Tiny' or 'tiny_msd' or 'tiny'.*--data tiny=PATH"):
        (tmp_path / "other").mkdir()
        locate("tiny", spec, roots=[tmp_path / "other"])
    for places in ({"named": {"tiny": tmp_path / "gone"}}, {"roots": [tmp_path / "gone"]}):
        with pytest.raises(DataError, match="gone: "):
            locate("tiny", spec, **places)


def test_data_arguments_are_named_folders_or_roots(tmp_path):
    odd = tmp_path / "a=b"
    odd.mkdir()
    named, roots = parse_places(["tiny=some/where", "plain/root", str(odd)])
    assert named == {"tiny": Path("some/where")}
    assert roots == (Path("plain/root"), odd)
    for wrong in (["=x"], ["x="], ["x=1", "x=2"]):
        with pytest.raises(DataError, match="--data"):
            parse_places(wrong)


@pytest.mark.parametrize("name", description_names(DESCRIPTIONS))
def test_every_built_in_description_loads_and_bears_the_name_of_its_file(name):
    assert load_description(name, DESCRIPTIONS).name == name


def built_in(name: str, shared_data: Path) -> FolderDataset:
    spec = load_description(name, DESCRIPTIONS)
    return FolderDataset(spec, locate(name, spec, roots=[shared_data]))


def test_the_hippocampus_has_260_patients_at_1_mm_with_both_structures(shared_data):
    dataset = built_in("hippocampus", shared_data)
    cases = dataset.cases()
    assert len(cases) == len({case.patient_id for case in cases}) == 260
    assert dataset.fine_labels == ("outside", "anterior", "posterior")
    for case in cases[::40]:
        anatomy = dataset.anatomy(case.case_id, {})
        assert anatomy.geometry.spacing == pytest.approx((1.0, 1.0, 1.0))
        assert anatomy.image.shape[1:] == anatomy.fine.shape
        assert set(np.unique(anatomy.fine)) == {0, 1, 2}
        anterior, posterior = (np.argwhere(anatomy.fine == label).mean(axis=0) for label in (1, 2))
        assert anterior[1] > posterior[1]  # axis 1 runs to anterior


def test_the_first_hippocampus_has_the_voxel_counts_of_its_manifest(shared_data):
    anatomy = built_in("hippocampus", shared_data).anatomy("hippocampus_001", {})
    assert anatomy.fine.shape == (35, 51, 35)
    assert [(anatomy.fine == label).sum() for label in (1, 2)] == [1324, 1624]


@pytest.mark.parametrize(("name", "images", "patients"), [("chase_db1", 28, 14), ("hrf", 42, 42)])
def test_the_retina_sets_have_their_patients_and_vessels(shared_data, name, images, patients):
    dataset = built_in(name, shared_data)
    cases = dataset.cases()
    assert (len(cases), len({case.patient_id for case in cases})) == (images, patients)
    anatomy = dataset.anatomy(cases[0].case_id, {})
    assert anatomy.image.shape == (1, *anatomy.fine.shape)
    assert anatomy.geometry.unit == "px"
    assert 0.04 < (anatomy.fine == 1).mean() < 0.12
    assert anatomy.image[0][anatomy.fine == 1].mean() < anatomy.image[0][anatomy.image[0] > 30].mean()  # dark vessels


def test_hrf_keeps_the_diagnosis_as_an_attribute(shared_data):
    dataset = built_in("hrf", shared_data)
    assert dataset.anatomy("01_g", {}).attributes == {"group": "glaucoma"}


@pytest.mark.parametrize(
    ("name", "images"),
    [("fluorescence", 217), ("fluorescence_large", 60), ("histology", 107), ("brightfield", 16)],
)
def test_the_nuclei_are_told_apart_by_kind_and_counted(shared_data, name, images):
    dataset = built_in(f"nuclei_{name}", shared_data)
    assert len(dataset.cases()) == images
    info = dataset.cases()[0]
    anatomy = dataset.anatomy(info.case_id, {})
    assert anatomy.instances.max() == len(np.unique(anatomy.instances)) - 1 == info.attributes["nuclei"]
    assert anatomy.image.shape == (1, *anatomy.fine.shape)
