"""Files of somebody else are read as data: nothing in them runs, nothing of them leaves its folder."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shiftbench.errors import DataError
from shiftbench.isolation.reading import inside, read_checkpoint, read_prediction, unpack

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor([3])}
GRID = (4, 5)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def labels(**changes):
    found = np.zeros(GRID, np.uint8)
    found[1:3, 1:3] = 1
    return {"labels": found, **changes}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pth"])
def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    found = read_checkpoint(tmp_path, name, STATE)
    assert set(found) == set(STATE) and all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": None}, "the tensor 'weight' is missing"),
        ({"further": torch.zeros(1)}, "unknown tensor 'further'"),
        ({"weight": torch.zeros(3, 2)}, r"'weight' is torch.float32 of shape \(3, 2\); give torch.float32 of shape"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, "'weight' is torch.float64"),
        ({"weight": torch.full((2, 3), float("nan"))}, "'weight' has a NaN or an infinity"),
        ({"weight": torch.full((2, 3), float("inf"))}, "'weight' has a NaN or an infinity"),
        ({"weight": torch.zeros(2**20)}, "bytes where 32 were expected"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_checkpoint_of_something_else_is_refused_in_one_sentence(tmp_path, name, change, words):
    state = {key: value for key, value in (STATE | change).items() if value is not None}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    with pytest.raises(DataError, match=words) as refused:
        read_checkpoint(tmp_path, name, STATE)
    assert str(tmp_path / name) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"weight": bomb}, lambda bomb: STATE | {"x": bomb}])
def test_a_bomb_in_a_checkpoint_does_not_go_off(tmp_path, wrap):
    mark = tmp_path / "mark"
    torch.save(wrap(Bomb(mark)), tmp_path / "model.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(wrap(Bomb(mark))))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(wrap(Bomb(mark))))
    for name in ("model.pt", "plain.pt", "model.safetensors"):
        with pytest.raises(DataError):
            read_checkpoint(tmp_path, name, STATE)
    assert not mark.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert mark.exists()  # it was a bomb


def test_a_checkpoint_that_only_unpacks_to_much_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "small.pt")
    with (
        zipfile.ZipFile(tmp_path / "small.pt") as small,
        zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in small.infolist():
            content = bytes(2**24) if entry.filename.endswith("data/0") else small.read(entry)
            packed.writestr(entry.filename, content)
    assert (tmp_path / "model.pt").stat().st_size < 2**17
    with pytest.raises(DataError, match="bytes where"):
        read_checkpoint(tmp_path, "model.pt", STATE)


def test_a_checkpoint_of_other_things_than_tensors_by_name_is_refused(tmp_path):
    torch.save({"state_dict": STATE}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="more than tensors by name"):
        read_checkpoint(tmp_path, "model.pt", STATE)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="does not end in '.bin'"):
        read_checkpoint(tmp_path, "model.bin", STATE)


@pytest.mark.parametrize("name", ["case.npz", "case.npy", "case.safetensors"])
def test_a_prediction_comes_back_as_it_was_saved(tmp_path, name):
    if name == "case.npz":
        np.savez_compressed(tmp_path / name, **labels())
    elif name == "case.npy":
        np.save(tmp_path / name, labels()["labels"])
    else:
        save_file({"labels": torch.from_numpy(labels()["labels"])}, tmp_path / name)
    found = read_prediction(tmp_path, name, grid=GRID, classes=2)
    assert torch.equal(found.labels.long(), torch.from_numpy(labels()["labels"]).long())
    assert found.log_probabilities is None


def test_log_probabilities_are_read_in_any_byte_order(tmp_path):
    scores = torch.randn(2, *GRID, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    np.savez(tmp_path / "case.npz", log_probabilities=scores.numpy().astype(">f4"))
    found = read_prediction(tmp_path, "case.npz", grid=GRID, classes=2)
    assert torch.equal(found.log_probabilities, scores)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (labels(labels=np.zeros((5, 4), np.uint8)), "shape"),
        (labels(labels=np.zeros(GRID, np.float32)), "labels"),
        (labels(labels=np.full(GRID, 2, np.uint8)), "labels run from 2 to 2; give labels from 0 to 1"),
        (labels(labels=np.full(GRID, -1, np.int64)), "labels run from -1"),
        (labels(labels=np.full(GRID, 2**64 - 1, np.uint64)), "labels run from -1"),
        (labels(reference=np.zeros(GRID)), "unknown array 'reference'"),
        (labels(uncertainty=np.full(GRID, np.nan)), "uncertainty"),
        ({"log_probabilities": np.zeros((2, *GRID), np.float32)}, "do not add up to one"),
        ({"log_probabilities": np.full((2, *GRID), np.inf, np.float32)}, "log_probabilities"),
        ({"labels": np.full(GRID, "a")}, "'labels' has the type <U1; give an array of numbers"),
        ({}, "empty Prediction"),
        (labels(uncertainty=np.zeros(2**21)), "bytes where"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_refused_in_one_sentence(tmp_path, arrays, words):
    np.savez_compressed(tmp_path / "case.npz", **arrays)
    with pytest.raises(DataError, match=words) as refused:
        read_prediction(tmp_path, "case.npz", grid=GRID, classes=2)
    assert str(tmp_path / "case.npz") in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["case.npz", "case.npy"])
def test_a_bomb_in_a_prediction_does_not_go_off(tmp_path, name):
    mark, bomb = tmp_path / "mark", np.empty(GRID, object)
    bomb[0, 0] = Bomb(mark)
    np.savez(tmp_path / name, labels=bomb) if name.endswith("z") else np.save(tmp_path / name, bomb)
    with pytest.raises(DataError):
        read_prediction(tmp_path, name, grid=GRID, classes=2)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(DataError):
        read_prediction(tmp_path, name, grid=GRID, classes=2)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00v\x00{'descr'"])
@pytest.mark.parametrize("name", ["case.npz", "case.npy", "case.safetensors"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_prediction(tmp_path, name, grid=GRID, classes=2)


@pytest.mark.parametrize(
    "name", ["../case.npz", "/etc/passwd", "a/../../case.npz", "C:\\case.npz", "..\\case.npz", "", "."]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "given"
    folder.mkdir()
    np.savez(tmp_path / "case.npz", **labels())
    with pytest.raises(DataError, match="leaves the folder"):
        inside(folder, name)


def test_a_link_is_refused_at_any_depth(tmp_path):
    folder, secret = tmp_path / "given", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    np.savez(secret / "case.npz", **labels())
    (folder / "case.npz").symlink_to(secret / "case.npz")
    (folder / "deep").symlink_to(secret)
    for name in ("case.npz", "deep/case.npz"):
        with pytest.raises(DataError, match="this is a link"):
            read_prediction(folder, name, grid=GRID, classes=2)
    with pytest.raises(DataError, match="no such file"):
        inside(folder, "other.npz")


def packed(path: Path, *members: tuple[str, object]) -> Path:
    """An archive of files (bytes), links ("->place", "=>place") and devices (None)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
                continue
            entry.type = (
                tarfile.CHRTYPE if content is None else tarfile.SYMTYPE if content[0] == "-" else tarfile.LNKTYPE
            )
            entry.linkname = "" if content is None else str(content)[2:]
            tar.addfile(entry)
    return path


def test_an_archive_is_unpacked_into_its_folder(tmp_path):
    archive, folder = packed(tmp_path / "a.tar.gz", ("a/b.txt", b"one"), ("c.txt", b"two")), tmp_path / "to"
    folder.mkdir()
    assert unpack(archive, folder, room=10) == [folder / "a" / "b.txt", folder / "c.txt"]
    assert (folder / "a" / "b.txt").read_bytes() == b"one"
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        tar.add(folder, ".")
    (tmp_path / "again").mkdir()
    assert len(unpack(tmp_path / "whole.tar", tmp_path / "again", room=10)) == 2


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("../out.txt", b"x"), "leaves the folder"),
        (("/tmp/out.txt", b"x"), "leaves the folder"),
        (("a/../../out.txt", b"x"), "leaves the folder"),
        (("link", "->/etc/passwd"), "'link' is a link"),
        (("link", "->good.txt"), "'link' is a link"),
        (("link", "=>/etc/passwd"), "'link' is a link"),
        (("device", None), "'device' is no plain file"),
        (("good.txt", b"again"), "'good.txt' is there twice"),
        (("large.bin", bytes(2**20)), "holds more than it may"),
    ],
)
def test_an_archive_with_a_way_out_is_refused_whole(tmp_path, member, words):
    folder = tmp_path / "to"
    folder.mkdir()
    with pytest.raises(DataError, match=words):
        unpack(packed(tmp_path / "a.tar.gz", ("good.txt", b"good"), member), folder, room=1000)
    assert list(folder.iterdir()) == [] and not (tmp_path / "out.txt").exists()


def test_an_archive_does_not_write_through_a_link_that_lies_there(tmp_path):
    folder, elsewhere = tmp_path / "to", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "a").symlink_to(elsewhere)
    with pytest.raises(DataError, match="a link lies in the way"):
        unpack(packed(tmp_path / "a.tar", ("a/b.txt", b"x")), folder, room=10)
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        unpack(tmp_path / "bad.tar", folder, room=10)
