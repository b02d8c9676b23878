"""A disk that is really full, really read-only, or shared: one sentence, and what was there stays."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from shiftbench.domains import load_image, load_instances, load_reference
from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.store.claims import Claims
from shiftbench.store.upkeep import gc
from shiftbench.store.verify import verify


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; the test is skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system of 1 MiB cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put(store, key, size):
    with store.workspace() as folder:
        try:
            (folder / "a.npy").write_bytes(os.urandom(size))
        finally:
            store.publish("predict", key, {"size": size}, folder)


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_there(small_disk):
    store = Store(small_disk / "out")
    store.open_for({"a": "1:abc"})
    put(store, "k1", 1000)
    before = contents(store.root)
    (small_disk / "ballast").write_bytes(b"")
    with pytest.raises(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            assert ballast.write(b"x" * 4096)
    for attempt in (
        lambda: store.publish("predict", "k2", {"text": "x" * 100_000}),
        lambda: store.publish_failure("predict", "k2", {"cause": "x" * 100_000}),
        lambda: store.open_for({name: "1:abc" for name in map(str, range(10_000))}),
    ):
        with pytest.raises(OutputError, match="the disk is full; free some space"):
            attempt()
    assert not store.done("predict", "k2") and contents(store.root) == before and verify(store) == []
    (small_disk / "ballast").unlink()
    put(store, "k2", 1000)
    assert store.done("predict", "k2") and gc(store) == []


def test_a_read_only_folder_is_one_sentence_and_can_still_be_read(small_disk):
    store = Store(small_disk / "out")
    store.open_for({"a": "1:abc"})
    put(store, "k1", 1000)
    before = contents(store.root)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match="the folder cannot be written; change its rights or give --out"):
        store.open_for({"a": "1:abc"})
    for attempt in (
        lambda: store.publish("train", "k2", {}),
        lambda: put(store, "k3", 10),
        lambda: store.publish_failure("train", "k2", {"cause": "no"}),
        lambda: store.drop("predict", "k1"),
        lambda: Claims(store).take("train/k2"),
        lambda: gc(store),
    ):
        with pytest.raises(OutputError, match="the folder cannot be written"):
            attempt()
    store.sweep()
    assert Store(store.root).record("predict", "k1") == {"size": 1000} and verify(store) == []
    assert contents(store.root) == before


@pytest.fixture
def domain(tmp_path):
    store = Store(tmp_path / "out")
    with store.workspace() as images, store.workspace() as references:
        np.save(images / "float.npy", np.ones((1, 4, 4), np.float32))
        np.save(images / "whole.npy", np.ones((1, 4, 4), np.int16))
        np.save(references / "float.npy", np.ones((4, 4), np.uint8))
        np.save(references / "float.instances.npy", np.ones((4, 4), np.int32))
        store.publish("images", "k", {}, images)
        store.publish("references", "k", {}, references)
    return store


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def test_arrays_of_domains_are_the_files_memory_and_not_a_copy(domain):
    for load in (load_image, load_reference, load_instances):
        array = load(domain, "k", "float")
        assert is_mapped(array) and type(array) is np.ndarray and array.flags.writeable
    whole = load_image(domain, "k", "whole")
    assert whole.dtype == np.float32 and (whole == 1).all()


def test_what_a_method_writes_into_an_image_stays_in_its_process(domain):
    before = (domain.artifact("images", "k") / "float.npy").read_bytes()
    tensor = torch.from_numpy(load_image(domain, "k", "float"))
    tensor.mul_(7)
    assert (tensor == 7).all() and (domain.artifact("images", "k") / "float.npy").read_bytes() == before
    assert (load_image(domain, "k", "float") == 1).all()
