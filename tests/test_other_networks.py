"""Other networks as backbones: MONAI's, an installed package's, a user's own file; and what is wrong with them."""

from __future__ import annotations

import copy
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from monai.data import MetaTensor

from shiftbench import blocks
from shiftbench.backbones import BACKBONES, Backbone, fingerprint
from shiftbench.errors import NotApplicable, SpecError
from shiftbench.networks import Normalise, build
from shiftbench.rng import generator
from shiftbench.tasks import Task

OTHERS = [name for name, spec in BACKBONES.items() if spec.network != "unet"]
OWN = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, in_channels, out_channels, width=4):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, out_channels, 1)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())

class Halves(Plain):
    def forward(self, x):
        return super().forward(x)[..., ::2, ::2]

class OneTooMany(Plain):
    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels + 1)

class Raises(Plain):
    def forward(self, x):
        raise RuntimeError("no such luck")

class Two(Plain):
    def forward(self, x):
        out = super().forward(x)
        return [out, out[..., ::2, ::2]] if self.training else [out]

def made(in_channels, out_channels, spatial_dims):
    return Plain(in_channels, out_channels, width=spatial_dims)

def text(in_channels):
    return "a network"
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(OWN))
    return path


def built(spec, dimension=2, *, stack=1, channels=1, classes=3, heads=()):
    return build(
        spec,
        dimension=dimension,
        channels=channels,
        task=Task(classes, kind="instance" if heads else "semantic", heads=heads),
        normalise=Normalise(),
        patch=(64,) * dimension,
        stack=stack,
        rng=generator(0, "other"),
    )


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_of_the_table_has_the_tasks_outputs_and_its_declared_features(name):
    model = built(name, channels=2, stack=3, heads=("boundary",)).eval()
    x = torch.randn(1, 6, 64, 64)
    with torch.no_grad():
        out = model.outputs(x)
        assert out.classes.shape == (1, 3, 64, 64) and out.heads.shape == (1, 1, 64, 64)
        for feature in model.features:
            with blocks.features(model, feature) as seen:
                model(x)
            assert len(seen) == 1 and seen[0].ndim == 4


@pytest.mark.parametrize("name", ["monai_unet_bn", "dynunet_in", "segresnet_gn"])
def test_it_serves_volumes(name):
    model = built(name, 3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@pytest.mark.slow
def test_swin_unetr_serves_volumes():
    with torch.no_grad():
        assert built("swinunetr", 3).eval()(torch.zeros(1, 1, 64, 64, 64)).shape == (1, 3, 64, 64, 64)


def test_the_deep_outputs_of_dynunet_are_levels_while_training_and_gone_after_it():
    model = built("dynunet_in_deep")
    x = torch.randn(2, 1, 32, 32)
    trained = model.train().outputs(x)
    assert trained.classes.shape == (2, 3, 32, 32) and len(trained.deep) == 2
    assert all(level.shape == (2, 3, 32, 32) for level in trained.deep)
    assert not model.eval().outputs(x).deep


def test_building_tries_the_network_and_leaves_its_statistics_and_its_mode():
    model = built("monai_unet_bn")
    for mean, variance in blocks.statistics(model):
        assert torch.equal(mean, torch.zeros_like(mean)) and torch.equal(variance, torch.ones_like(variance))
    assert all(m.training for m in model.network.modules())
    assert all(int(layer.num_batches_tracked) == 0 for layer in blocks.batch_norm_layers(model))


def test_weights_of_other_networks_depend_on_the_generator_too():
    one, same = (built("dynunet_in").state_dict() for _ in range(2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())


def test_an_image_with_metadata_comes_out_as_a_plain_tensor():
    model = built("monai_unet_bn").eval()
    with torch.no_grad():
        out = model.outputs(MetaTensor(torch.zeros(1, 1, 64, 64)))
    assert type(out.classes) is torch.Tensor and type(out.heads) is torch.Tensor


def test_a_users_file_serves_with_its_own_arguments_and_features(own):
    spec = Backbone(f"{own}:Plain", arguments=(("width", 5),), multiple=1, features=(("penultimate", "norm"),))
    model = built(spec).eval()
    assert model.network.first.out_channels == 5 and model.stride == 1
    with blocks.features(model, "penultimate") as seen:
        assert model(torch.zeros(1, 1, 7, 9)).shape == (1, 3, 7, 9)
    assert seen[0].shape == (1, 5, 7, 9)
    with pytest.raises(NotApplicable, match="no feature 'bottleneck'; it declares penultimate"):
        with blocks.features(model, "bottleneck"):
            pass
    copy.deepcopy(model)


def test_a_function_that_makes_a_network_and_a_list_of_levels_serve_too(own):
    assert built(Backbone(f"{own}:made", multiple=1)).network.first.out_channels == 2
    model = built(Backbone(f"{own}:Two", multiple=2))
    assert len(model.train().outputs(torch.zeros(2, 1, 8, 8)).deep) == 1
    assert not model.eval().outputs(torch.zeros(2, 1, 8, 8)).deep


def test_an_installed_module_serves(own, monkeypatch):
    monkeypatch.syspath_prepend(str(own.parent))
    spec = Backbone("own:Plain", multiple=1)
    assert built(spec).network.first.out_channels == 4
    assert fingerprint(spec) == fingerprint(Backbone(f"{own}:Plain"))
    del sys.modules["own"]


PLAIN = Backbone(arguments=(), multiple=1)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Plane", {}, "has no network 'Plane'; did you mean 'Plain'"),
        ("Plain", {"multiple": None}, "has no `multiple`"),
        ("Plain", {"arguments": (("widths", 3),)}, "takes no argument 'widths'; did you mean 'width'"),
        ("Plain", {"arguments": (("width", "wide"),)}, "cannot be built"),
        ("Plain", {"features": (("bottleneck", "frist"),)}, "no submodule 'frist'.*did you mean 'first'"),
        ("Halves", {"multiple": 4}, r"into \(1, 3, 4, 4\); its output must have 3 channels on the grid"),
        ("OneTooMany", {}, r"into \(1, 4, 2, 2\)"),
        ("Raises", {}, r"fails on an image of 2 x 2 with 1 channels \(RuntimeError: no such luck\)"),
        ("text", {}, "gives a str"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(own, name, changes, words):
    with pytest.raises(SpecError, match=words):
        built(replace(PLAIN, network=f"{own}:{name}", **changes))


def test_what_is_not_there_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(SpecError, match="has no network 'DynUNett'; did you mean 'DynUNet'"):
        built(Backbone("monai:DynUNett", multiple=8))
    with pytest.raises(SpecError, match="monai:DynUNet needs kernel_size, strides, upsample_kernel_size"):
        built(Backbone("monai:DynUNet", multiple=8))
    with pytest.raises(SpecError, match="cannot be imported"):
        built(Backbone("no.such.package:Net", multiple=8))
    with pytest.raises(SpecError, match="no such file"):
        built(Backbone(f"{tmp_path}/absent.py:Net", multiple=8))
    with pytest.raises(SpecError, match="unknown network 'resnet'"):
        built(Backbone("resnet", multiple=8))
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(SpecError, match="ZeroDivisionError"):
        built(Backbone(f"{broken}:Net", multiple=8))


def test_an_input_that_its_multiple_does_not_allow_is_said_at_once():
    with pytest.raises(SpecError, match="check its arguments and `multiple`"):
        built(replace(BACKBONES["swinunetr"], multiple=8))


def test_the_fingerprint_follows_the_content_of_a_users_file_and_nothing_of_it_is_run(own):
    spec = Backbone(f"{own}:Plain")
    before = fingerprint(spec)
    assert before and fingerprint(Backbone(f"{own}:Two")) == before
    own.write_text(own.read_text() + "\nraise SystemExit\n")
    assert fingerprint(spec) not in ("", before)
    assert {fingerprint(BACKBONES[name]) for name in BACKBONES} == {""}
    with pytest.raises(SpecError, match="no such file"):
        fingerprint(Backbone("absent.py:Net"))
    with pytest.raises(SpecError, match="no module 'absentpackage'"):
        fingerprint(Backbone("absentpackage.nets:Net"))
    assert fingerprint(Backbone("email.mime.text:MIMEText")) and fingerprint(Backbone("email.mime:x"))


def test_a_changed_file_is_read_anew(own):
    spec = Backbone(f"{own}:Plain", multiple=1)
    assert built(spec).network.first.out_channels == 4
    own.write_text(own.read_text().replace("width=4", "width=6"))
    assert built(spec).network.first.out_channels == 6


def test_deep_copies_of_other_networks_can_be_initialised_anew():
    model = built("dynunet_in")
    fresh = blocks.untrained(model, generator(3, "fresh"))
    assert not torch.equal(fresh.network.input_block.conv1.conv.weight, model.network.input_block.conv1.conv.weight)
