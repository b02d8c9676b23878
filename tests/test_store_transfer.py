"""Results on their way between machines: the same bytes, nothing foreign, and a conflict that names both sides."""

import io
import json
import tarfile

import numpy as np
import pytest

from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.store import pack as module
from shiftbench.store.envelope import COSTS
from shiftbench.store.pack import pack, unpack
from shiftbench.store.transfer import Merged, export, merge
from shiftbench.store.verify import verify

PLAN = "plans/0123456789abcdef.json.gz"


def made(path, results, scenarios=None):
    """A result folder; results: key -> value, of which half have arrays."""
    store = Store(path)
    store.open_for(scenarios or {"a": "1:abc"})
    for key, value in results.items():
        put(store, key, value)
    return store


def put(store, key, value, **more):
    with store.workspace() as folder:
        (folder / "sub").mkdir()
        np.save(folder / "sub" / "a.npy", np.full(50, value))
        store.publish("predict", key, {"value": value, "cases": {"p1": {"dsc": value, **more}}}, folder)
    store.publish("score", key, {"rows": [{"value": value, **more}], **more})


@pytest.fixture
def one(tmp_path):
    store = made(tmp_path / "one", {"k1": 1, "k2": 2})
    (store.root / "plans").mkdir()
    (store.root / PLAN).write_bytes(b"plan")
    (store.root / "rows.csv.gz").write_bytes(b"derived")
    return store


def everything(store):
    """What a merged folder must have, whatever name its arrays go by."""
    found = {}
    for path in (store.root / "records").rglob("*.json"):
        kind, key = path.parts[-3], path.stem
        arrays = store.artifact(kind, key)
        bytes_of = {p.relative_to(arrays).as_posix(): p.read_bytes() for p in arrays.rglob("*") if p.is_file()}
        envelope = store.envelope(kind, key)
        found[kind, key] = envelope["body"], envelope["by"], bytes_of
    return found


def test_an_export_merged_into_a_new_folder_is_the_same_results(one, tmp_path):
    assert export(one, tmp_path / "one.tar") == 4
    into = Store(tmp_path / "into")
    assert merge(into, [tmp_path / "one.tar"]) == Merged(4, 0) and everything(into) == everything(one)
    assert json.loads((into.root / "meta.json").read_text())["scenarios"] == {"a": "1:abc"}
    assert (into.root / PLAN).read_bytes() == b"plan" and not (into.root / "rows.csv.gz").exists()
    assert verify(into) == [] and merge(into, [tmp_path / "one.tar", one.root]) == Merged(0, 8)
    assert sorted(p.name for p in into.root.iterdir()) == ["artifacts", "meta.json", "plans", "records"]


def test_an_export_is_the_same_bytes_every_time_and_takes_no_name_that_is_taken(one, tmp_path):
    export(one, tmp_path / "a.tar")
    export(one, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with pytest.raises(OutputError, match="the file is there already"):
        export(one, tmp_path / "a.tar")


def test_an_export_of_some_tasks_holds_those_and_a_missing_one_leaves_no_file(one, tmp_path):
    assert export(one, tmp_path / "some.tar", ["predict/k2"]) == 1
    into = Store(tmp_path / "into")
    assert merge(into, [tmp_path / "some.tar"]) == Merged(1, 0) and set(everything(into)) == {("predict", "k2")}
    with pytest.raises(OutputError, match="no such file"):
        export(one, tmp_path / "none.tar", ["predict/k3"])
    assert sorted(p.name for p in tmp_path.glob("*none*")) == []


def test_folders_of_several_machines_become_one_with_the_scenarios_of_all(one, tmp_path):
    two = made(tmp_path / "two", {"k2": 2, "k3": 3}, {"b": "4:def"})
    assert merge(one, [two.root]) == Merged(2, 2)
    assert json.loads((one.root / "meta.json").read_text())["scenarios"] == {"a": "1:abc", "b": "4:def"}
    assert one.finished("predict") == {"k1", "k2", "k3"} and verify(one) == []


def test_costs_are_no_part_of_what_is_compared(tmp_path):
    one, two = made(tmp_path / "one", {}), made(tmp_path / "two", {})
    put(one, "k1", 1, seconds=1.0, peak_mb=5.0)
    put(two, "k1", 1, seconds=2.0, peak_mb=None, seconds_adapt=3.0)
    assert {"seconds", "seconds_adapt", "peak_mb"} <= COSTS
    assert merge(one, [two.root]) == Merged(0, 2)
    assert one.record("predict", "k1")["cases"]["p1"]["seconds"] == 1.0


@pytest.mark.parametrize("packed", [False, True])
def test_a_conflict_names_both_sides_and_changes_nothing(one, tmp_path, packed):
    two = made(tmp_path / "two", {"k0": 0, "k2": 7})
    source = two.root
    if packed:
        source = tmp_path / "two.tar"
        export(two, source)
    before = {p: p.read_bytes() for p in one.root.rglob("*") if p.is_file()}
    with pytest.raises(OutputError) as raised:
        merge(one, [source])
    text, by = str(raised.value), one.envelope("predict", "k2")["by"]
    assert text.startswith("predict/k2 has two results that differ in sub/a.npy: ")
    assert f"{one.record_path('predict', 'k2')} (made on {by['host']} at {by['at']}) and {source}/records" in text
    assert {p: p.read_bytes() for p in one.root.rglob("*") if p.is_file()} == before


def test_two_sources_that_contradict_each_other_are_a_conflict_too(tmp_path):
    one, two = made(tmp_path / "one", {"k1": 1}), made(tmp_path / "two", {"k1": 2})
    with pytest.raises(OutputError, match=r"one/records/.* and .*two/records/"):
        merge(Store(tmp_path / "into"), [one.root, two.root])
    assert not (tmp_path / "into").exists()


def test_another_version_of_a_scenario_and_another_format_are_refused(one, tmp_path):
    two = made(tmp_path / "two", {"k3": 3}, {"a": "2:def"})
    with pytest.raises(OutputError, match="scenario 'a' in version 1, this is version 2"):
        merge(one, [two.root])
    (two.root / "meta.json").write_text('{"format":1,"scenarios":{}}')
    with pytest.raises(OutputError, match="result folder of format 1"):
        merge(one, [two.root])
    assert one.finished("predict") == {"k1", "k2"}


def test_two_sources_of_different_scenario_versions_are_refused(tmp_path):
    one, two = made(tmp_path / "one", {"k1": 1}), made(tmp_path / "two", {"k2": 2}, {"a": "2:def"})
    with pytest.raises(OutputError, match="two beside .*scenario 'a' in version 1, this is version 2"):
        merge(Store(tmp_path / "into"), [one.root, two.root])
    assert not (tmp_path / "into").exists()


def test_a_damaged_source_is_refused_before_anything_is_changed(one, tmp_path):
    two = made(tmp_path / "two", {"k3": 3, "k4": 4})
    path = two.artifact("predict", "k4") / "sub" / "a.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(OutputError, match=r"k4.*a\.npy: the file is not the one that was written"):
        merge(one, [two.root])
    export(two, tmp_path / "two.tar", ["predict/k3"])
    (tmp_path / "two.tar").write_bytes((tmp_path / "two.tar").read_bytes().replace(b'"value":3', b'"value":8'))
    with pytest.raises(OutputError, match="the record is damaged"):
        merge(one, [tmp_path / "two.tar"])
    assert one.finished("predict") == {"k1", "k2"}


def test_a_source_that_changes_after_it_was_checked_is_not_believed(one, tmp_path, monkeypatch):
    two, real = made(tmp_path / "two", {"k3": 3}), module.copy_arrays

    def changed(members, envelope, folder):
        real(members, envelope, folder)
        (folder / "sub" / "a.npy").write_bytes(b"something else")

    monkeypatch.setattr(module, "copy_arrays", changed)
    with pytest.raises(OutputError, match="predict/k3 on its way: the record is damaged"):
        merge(one, [two.root])
    assert not one.done("predict", "k3") and verify(one) == []


def archive(path, entries):
    """A tar file of (name, bytes or a changed TarInfo)."""
    with tarfile.open(path, "w:") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


META = b'{"format":2,"scenarios":{}}'
BAD = {
    "leaves": ([("../evil", b"x")], "leaves the folder"),
    "absolute": ([("/etc/evil", b"x")], "leaves the folder"),
    "drive": ([("C:\\evil", b"x")], "leaves the folder"),
    "symbolic link": ([("artifacts/predict/k1/k1.0", (tarfile.SYMTYPE, "/etc"))], "link or a device"),
    "hard link": ([("records/predict/k1/k1.json", (tarfile.LNKTYPE, "meta.json"))], "link or a device"),
    "device": ([("plans/ab.json.gz", (tarfile.CHRTYPE, ""))], "link or a device"),
    "twice": ([("meta.json", META)], "is there twice"),
    "foreign": ([("shiftbench/evil.py", b"x")], "is no part of an export"),
    "plan": ([("plans/evil.py", b"x")], "is no part of an export"),
    "place": ([("records/predict/zz/k1.json", b"x")], "not the place of a record"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_archive_with_anything_foreign_in_it_is_refused(one, tmp_path, name):
    entries, words = BAD[name]
    before = sorted(one.root.rglob("*"))
    with pytest.raises(OutputError, match=words):
        merge(one, [archive(tmp_path / "bad.tar", [("meta.json", META), *entries])])
    assert sorted(one.root.rglob("*")) == before and not (tmp_path / "evil").exists()


def test_what_is_no_archive_is_refused(one, tmp_path):
    (tmp_path / "x.tar").write_bytes(b"x" * 5000)
    with pytest.raises(OutputError, match="no tar file that `shiftbench export` has written"):
        merge(one, [tmp_path / "x.tar"])
    with pytest.raises(OutputError, match="no such file or folder"):
        merge(one, [tmp_path / "nowhere"])


def test_a_link_in_a_folder_is_not_followed(one, tmp_path):
    two = made(tmp_path / "two", {"k3": 3})
    path = two.artifact("predict", "k3") / "sub"
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="a link in a result folder"):
        merge(one, [two.root])


def test_a_packed_result_is_the_same_elsewhere_and_keeps_what_is_there(one, tmp_path):
    into = Store(tmp_path / "into")
    for _ in range(2):
        unpack(into, pack(one, "predict", "k1"))
        unpack(into, pack(one, "score", "k1"))
    assert everything(into) == {task: found for task, found in everything(one).items() if task[1] == "k1"}
    other = made(tmp_path / "other", {"k1": 5})
    with pytest.raises(OutputError, match=r"predict/k1 has two results .*into/records.* and a packed result"):
        unpack(into, pack(other, "predict", "k1"))
    assert into.record("predict", "k1")["value"] == 1


def test_a_packed_result_that_was_changed_on_the_way_is_refused(one, tmp_path):
    blob = pack(one, "predict", "k1")
    into = Store(tmp_path / "into")
    for at in (blob.index(b'"value"') + 8, blob.rindex(b"NUMPY") + 200):
        changed = bytearray(blob)
        changed[at] ^= 2
        with pytest.raises(OutputError, match="damaged|not the one that was written"):
            unpack(into, bytes(changed))
    with pytest.raises(OutputError, match="not one result"):
        unpack(into, archive(tmp_path / "x.tar", [("meta.json", META)]).read_bytes())
    assert not into.done("predict", "k1") and not (into.root / "artifacts").exists()


def test_dropped_arrays_stay_dropped_elsewhere_and_come_back_from_who_has_them(one, tmp_path):
    whole = pack(one, "predict", "k1")
    one.drop("predict", "k1")
    into = made(tmp_path / "into", {})
    unpack(into, pack(one, "predict", "k1"))
    assert into.dropped("predict", "k1") and into.record("predict", "k1")["value"] == 1
    unpack(into, whole)
    assert into.present("predict", "k1") and (into.artifact("predict", "k1") / "sub" / "a.npy").is_file()
    assert verify(into) == []
    assert merge(Store(tmp_path / "third"), [one.root]) == Merged(4, 0)
    assert Store(tmp_path / "third").dropped("predict", "k1")
