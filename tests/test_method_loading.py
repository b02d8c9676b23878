"""Methods by name, variant, path, entry point and override; what is wrong with a file is said in one sentence."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shiftbench import methods
from shiftbench.check import IMPORTS
from shiftbench.errors import MethodError
from shiftbench.methods import describe_methods, find_method, load_methods, payload_of, shipped_methods, source_of
from shiftbench.types import Episode, Track

ROOT = Path(__file__).parents[1]
SOUND = '''"""Mine, by me, 2025.

Differs from the paper: nothing.
"""
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal
from shiftbench.api import Episode, Track, predictor

@dataclass(frozen=True)
class Method:
    rate: float = 0.5
    rounds: int | None = None
    fast: bool = False
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    track: Track = Track.TTA
    episode: Episode = Episode.ONLINE
    requires: tuple[str, ...] = ()

    def adapt(self, model, access, *, rng):
        return predictor(model)
'''


@pytest.fixture
def written(tmp_path):
    def write(text: str = SOUND, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refusal(spec: object) -> str:
    with pytest.raises(MethodError) as caught:
        load_methods(str(spec))
    text = str(caught.value)
    assert caught.value.remedy and "\n" not in text
    return text


def test_a_file_name_gives_all_its_variants_and_a_variant_itself():
    assert set(load_methods("tent")) == {"tent_bn", "tent_in", "tent_bn_episodic"}
    (loaded,) = load_methods("tent_in").values()
    assert (loaded.name, loaded.variant, loaded.version) == ("tent_in", "tent_in", "1")
    assert loaded.path == ROOT / "baselines" / "tent.py"


def test_a_path_gives_the_file_under_its_own_name_with_its_content_as_version(written):
    path = written()
    (loaded,) = load_methods(str(path)).values()
    assert loaded.name == "mine" and loaded.version.startswith("sha256:") and len(loaded.version) == 7 + 16
    path.write_text(SOUND + "\n")
    assert load_methods(str(path))["mine"].version != loaded.version


def test_a_copy_of_a_shipped_file_is_versioned_by_its_content(written):
    path = written((ROOT / "baselines" / "erm.py").read_text(), "erm.py")
    assert load_methods("erm")["erm"].version == "1"
    assert load_methods(str(path))["erm"].version.startswith("sha256:")


def test_overrides_are_parsed_by_type_and_named_in_the_key(written):
    (loaded,) = load_methods(f"{written()}:rounds=3,rate=1e-4,fast=true,mode=b").values()
    assert loaded.name == "mine:fast=True,mode=b,rate=0.0001,rounds=3"
    method = loaded.method
    assert (method.rate, method.rounds, method.fast, method.mode) == (1e-4, 3, True, "b")
    assert load_methods(f"{written()}:rounds=none")["mine:rounds=None"].method.rounds is None


def test_the_order_of_overrides_does_not_matter():
    assert load_methods("tent_bn:lr=1e-4,steps=5") == load_methods("tent_bn:steps=5,lr=1e-4")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ratee=1", "did you mean 'rate'"),
        ("rate=fast", "not a value of type float"),
        ("rate=nan", "not a value of type float"),
        ("rounds=1.5", "'rounds=1.5' is not a value"),
        ("fast=maybe", "not a value of type bool"),
        ("mode=c", "'mode=c' is not a value"),
        ("pair=1", "'pair=1' is not a value"),
        ("track=sfda", "'track' cannot be overridden"),
        ("requires=batch_norm", "'requires' cannot be overridden"),
        ("rate=1,rate=2", "given twice"),
        ("rate=1,,", "not an override"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused(written, override, words):
    assert words in refusal(f"{written()}:{override}")


def test_an_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'tent_bn'" in refusal("tent_bm")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "neither 'class Method' nor 'VARIANTS'"),
        ("def broken(:\n", "SyntaxError on import in line 1"),
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError on import in line 2"),
        ("import no_such_package_at_all\n", "ModuleNotFoundError on import in line 1"),
        (SOUND.replace("def adapt", "def adopt"), "has no 'adapt'"),
        (SOUND.replace("    track: Track = Track.TTA\n", ""), "has no 'track'"),
        (SOUND.replace("Track = Track.TTA", 'str = "tta"'), "has no 'track' of type Track"),
        (SOUND.replace("    episode: Episode = Episode.ONLINE\n", ""), "has no 'episode'"),
        (SOUND.replace("    requires: tuple[str, ...] = ()\n", ""), "no tuple 'requires'"),
        (SOUND.replace("...] = ()", '...] = ("batch_nrom",)'), "did you mean 'batch_norm'"),
        (SOUND.replace("(frozen=True)", ""), "not a frozen dataclass"),
        (SOUND.replace("rate: float = 0.5", "rate: float"), "Method() cannot be made"),
        (SOUND.replace("Track.TTA", "Track.POSTHOC"), "'posthoc' is not run"),
        (SOUND + "VARIANTS = {}\n", "'VARIANTS' is not a dict"),
        (SOUND + "VARIANTS = {'a:b': Method()}\n", "not a name"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(written, text, words):
    path = written(text)
    message = refusal(path)
    assert words in message and str(path) in message


def test_a_missing_file_and_a_shipped_file_without_version_are_refused(tmp_path, written, monkeypatch):
    assert "no such file" in refusal(tmp_path / "absent.py")
    baselines = tmp_path / "baselines"
    baselines.mkdir()
    (baselines / "mine.py").write_text(SOUND)
    monkeypatch.setattr(methods, "content_root", lambda: tmp_path)
    assert "'VERSION' is missing" in refusal("mine")


def test_loading_leaves_no_trace_in_the_search_path(written):
    before = list(sys.path)
    loaded = load_methods(str(written()))["mine"]
    assert sys.path == before and "mine" not in sys.modules
    assert type(loaded.method).__module__.startswith("_shiftbench_method_")


def payload(spec: object) -> dict:
    (loaded,) = load_methods(str(spec)).values()
    return json.loads(json.dumps(payload_of(find_method(str(spec)), loaded.variant, loaded.version)))


def test_a_payload_survives_json_and_gives_the_code_without_running_it(written):
    for spec in ("tent_bn:lr=3e-4", "pred_bn", f"{written()}:rate=2"):
        (loaded,) = load_methods(spec).values()
        source = source_of(payload(spec))
        assert source.text == loaded.path.read_text() and source.file == loaded.path.name
        assert (source.variant, source.module) == (loaded.variant, None)
        assert tuple(source.overrides.items()) == loaded.overrides
    path = written()
    told = payload(path)
    path.write_text("raise SystemExit\n")
    told["version"] = methods.content_version(path.read_text())
    assert source_of(told).text == "raise SystemExit\n"


def test_a_file_that_changed_under_a_run_is_refused(written):
    path = written()
    told = payload(path)
    path.write_text(SOUND.replace("0.5", "0.6"))
    with pytest.raises(MethodError, match="changed while the run"):
        source_of(told)
    path.unlink()
    with pytest.raises(MethodError, match="no such file"):
        source_of(told)


def test_an_installed_package_offers_methods_by_entry_point(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ours.py").write_text(SOUND)
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("ours", "some_package.ours", methods.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    loaded = load_methods("ours:rate=2")["ours:rate=2.0"]
    assert loaded.module == "some_package.ours" and loaded.version.startswith("sha256:")
    assert source_of(payload("ours:rate=2")).module == "some_package.ours"
    gone = importlib.metadata.EntryPoint("gone", "no_such_package_at_all.x", methods.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [gone])
    assert "is not installed" in refusal("gone")


def test_finding_an_installed_method_runs_nothing_of_its_package(tmp_path, monkeypatch):
    package = tmp_path / "loud_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was run')\n")
    (package / "inner" / "__init__.py").write_text(SOUND)
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("loud", "loud_package.inner", methods.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert find_method("loud").path == package / "inner" / "__init__.py"


def test_what_is_described_without_running_is_what_is_loaded():
    described = {info.name: info for info in describe_methods()}
    loaded = {name: m for file in shipped_methods() for name, m in load_methods(file).items()}
    assert set(described) == set(loaded)
    for name, method in loaded.items():
        info = described[name]
        assert (Track(info.track), Episode(info.episode)) == (method.method.track, method.method.episode), name
        assert info.file == method.path and info.summary.endswith(".")


def test_describing_methods_does_not_import_torch():
    code = "import sys; from shiftbench.methods import describe_methods as d; assert d() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", shipped_methods().values(), ids=lambda path: path.stem)
def test_a_shipped_method_imports_only_the_api_of_shiftbench(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {m for m in modules if m.partition(".")[0] not in IMPORTS} == {"shiftbench.api"}
