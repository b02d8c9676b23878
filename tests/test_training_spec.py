"""What a scenario says of networks, tasks and training: parsed, refused in one sentence, and part of the keys."""

from __future__ import annotations

import pytest

from scenarios import TINY, write
from shiftbench.backbones import BACKBONES, Backbone
from shiftbench.errors import SpecError
from shiftbench.runner import prepare
from shiftbench.spec import LOSS_NAMES, load_scenario
from shiftbench.tasks import Task
from shiftbench.types import LossTerm

SEED_LINE = 'budget = "smoke"\n'


def with_lines(tmp_path, lines="", tables="", text=TINY):
    return write(tmp_path, text.replace(SEED_LINE, SEED_LINE + lines) + tables)


def tasks(path, tmp_path, kind, **choices):
    graph = prepare(path, ["erm"], out=tmp_path / "out", device="cpu", **choices).graph
    return [task for task in graph.tasks.values() if task.kind == kind]


def test_the_specification_and_the_losses_name_the_same_losses():
    from shiftbench.losses import LOSSES

    assert set(LOSS_NAMES) == set(LOSSES)


def test_a_loss_is_a_name_or_a_list_of_terms_with_schedules(tmp_path):
    one = load_scenario(with_lines(tmp_path, tables='[training]\nloss = "focal"\n')).recipe()
    assert one.loss == (LossTerm("focal"),)
    term = '{ name = "boundary", weight = 0.01, final_weight = 0.5 }'
    two = load_scenario(with_lines(tmp_path, tables=f'[training]\nloss = ["dice", {term}]\n')).recipe()
    assert two.loss == (LossTerm("dice"), LossTerm("boundary", 0.01, 0.5))
    options = '{ name = "tversky", options = { beta = 0.7, alpha = 0.3 } }'
    three = load_scenario(with_lines(tmp_path, tables=f"[training]\nloss = [{options}]\n")).recipe()
    assert three.loss[0].options == (("alpha", 0.3), ("beta", 0.7))


def test_keys_of_networks_and_training_that_say_nothing_change_no_digest(tmp_path):
    plain = load_scenario(with_lines(tmp_path)).digest()
    assert load_scenario(with_lines(tmp_path, lines='task = "semantic"\n')).digest() == plain
    assert load_scenario(with_lines(tmp_path, tables='[training]\naverage = "ema"\n')).digest() != plain


@pytest.mark.parametrize(
    ("lines", "tables", "words"),
    [
        ("", '[training]\nloss = "focall"\n', ["unknown loss 'focall'", "focal"]),
        ("", "[training]\nloss = []\n", ["training.loss", "at least one"]),
        ("", '[training]\naugmentation = "heavy"\n', ["training.augmentation"]),
        ("", "[training]\npatch = [32, 32, 32]\n", ["training.patch has 3 entries", "2 axes"]),
        ("", "[training]\nstack = 3\n", ["training.stack", '"2.5d"']),
        ("", "[training]\nclass_weights = [1, 2]\n", ["training.class_weights has 2", "give 3"]),
        ("", "[training]\nbatch = 0\n", ["training.batch"]),
        ("", "[instances]\nmin_voxels = 3\n", ["[instances] needs task"]),
        ('task = "instance"\n', '[instances]\nheads = ["border"]\n', ["instances.heads"]),
        ('task = "things"\n', "", ["task"]),
        ("", '[backbone.mine]\nlike = "unet_bm"\n', ["unknown backbone 'unet_bm'", "unet_bn"]),
        ("", '[backbone.mine]\nupp = "linear"\n', ["unknown key 'backbone.mine.upp'", "'up'"]),
        ("", '[backbone.mine]\nnetwork = "monai:SegResNet"\n', ["backbone.mine", "SegResNet needs 'multiple'"]),
        ("", "[backbone.mine]\nwidths = [16]\n", ["backbone.mine.widths"]),
        ("", "[backbone.mine]\ndropout = 1.0\n", ["backbone.mine.dropout"]),
    ],
)
def test_a_mistake_in_networks_and_training_names_file_key_and_remedy(tmp_path, lines, tables, words):
    path = with_lines(tmp_path, lines, tables)
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    for word in [str(path), *words]:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("stack", [1, 4])
def test_a_stack_has_a_middle_slice(tmp_path, stack):
    text = TINY.replace('"2d"', '"2.5d"')
    assert load_scenario(with_lines(tmp_path, text=text)).recipe().stack == 3
    with pytest.raises(SpecError, match="odd number of slices"):
        load_scenario(with_lines(tmp_path, tables=f"[training]\nstack = {stack}\n", text=text))


def test_a_backbone_of_the_scenarios_own_changes_an_entry_or_names_a_network(tmp_path):
    tables = '[backbone.mine]\nlike = "unet_in"\nup = "linear"\n'
    tables += (
        '[backbone.other]\nnetwork = "monai:SegResNet"\nmultiple = 8\narguments = { blocks_down = [1, 1, 1, 1] }\n'
    )
    scenario = load_scenario(with_lines(tmp_path, tables=tables))
    mine, other = scenario.architecture("mine"), scenario.architecture("other")
    assert mine.norm == "instance" and mine.up == "linear" and mine.widths == BACKBONES["unet_in"].widths
    assert other == Backbone(network="monai:SegResNet", multiple=8, arguments=(("blocks_down", (1, 1, 1, 1)),))
    assert other.stride == 8
    with pytest.raises(SpecError, match="unknown backbone 'mien'.*mine"):
        scenario.architecture("mien")


def test_what_a_network_is_made_of_is_part_of_its_trainings_address(tmp_path):
    def key(lines="", tables="", text=TINY):
        path = with_lines(tmp_path, lines, tables, text=text)
        (task,) = [t for t in prepare_once(path) if t.kind == "train"]
        return task.key

    count = iter(range(100))

    def prepare_once(path):
        return prepare(path, ["erm"], out=tmp_path / f"out{next(count)}", device="cpu").graph.tasks.values()

    plain = key()
    mine = 'backbones = ["mine"]\n'
    keys = [
        key(tables='[training]\nloss = "focal"\n'),
        key(tables='[training]\naverage = "ema"\n'),
        key(mine, '[backbone.mine]\nup = "linear"\n'),
        key(mine, '[backbone.mine]\nup = "nearest"\n'),
        key(text=TINY.replace('"2d"', '"2.5d"')),
        key('task = "panoptic"\n'),
    ]
    assert key() == plain and len({plain, *keys}) == len(keys) + 1


def test_the_files_content_of_a_users_network_is_part_of_the_address(tmp_path):
    net = tmp_path / "net.py"
    text = "import torch\nclass Net(torch.nn.Conv2d):\n    def __init__(self, in_channels, out_channels):\n"
    net.write_text(text + "        super().__init__(in_channels, out_channels, 1)\n")
    tables = f'[backbone.mine]\nnetwork = "{net}:Net"\nmultiple = 1\n'
    path = with_lines(tmp_path, 'backbones = ["mine"]\n', tables)
    (before,) = tasks(path, tmp_path, "train")
    net.write_text(text + "        super().__init__(in_channels, out_channels, 3, padding=1)\n")
    (after,) = tasks(path, tmp_path, "train")
    assert before.key != after.key


def test_things_of_the_data_set_are_what_is_counted(tmp_path):
    scenario = load_scenario(with_lines(tmp_path, lines='task = "panoptic"\n'))
    layout = scenario.layout(("tumour", "lesion"))
    assert layout == Task(3, "panoptic", (2,), ("boundary", "distance"))
    assert layout.outputs == 5 and layout.counts_instances
    with pytest.raises(SpecError, match="needs a structure with instances.*lesion"):
        scenario.layout(("lesion",))


def test_instances_reach_references_and_scores_where_they_are_counted(tmp_path):
    counting = tasks(with_lines(tmp_path, lines='task = "panoptic"\n'), tmp_path / "a", "references")
    assert all(task.payload["instances"] is True for task in counting)
    plain = tasks(with_lines(tmp_path), tmp_path / "b", "references")
    assert all("instances" not in task.payload for task in plain)
    assert not {task.key for task in counting} & {task.key for task in plain}
    scored = tasks(with_lines(tmp_path, lines='task = "panoptic"\n'), tmp_path / "c", "score")
    assert all(tuple(task.payload["layout"]["things"]) == (2,) for task in scored)
