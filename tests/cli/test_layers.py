"""limbeck layers: the paths, shapes and pairs that it lists are those that a method finds there."""

import json

import pytest
import torch
import yaml
from torch import nn

from limbeck import models
from limbeck.config import load_recipe
from limbeck.experiment.layers import layers_of, read_layers
from limbeck.layers import Layers
from limbeck.models.layers import TransformedInput
from limbeck.outputs import run_model
from limbeck.teachers import RestrictedModel
from walk import over

RECIPE = {"name": "pairs", "data": {"kind": "digits"}, "student": {"model": {"kind": "resnet8"}}, "seeds": [0]}
SMALL = [4, 4, 4, 4]
FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.maxpool = nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.avgpool, self.idle, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 2), nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.avgpool(self.layer2(self.layer1(self.maxpool(self.conv1(images))))).flatten(1))
"""


@pytest.fixture
def written(tmp_path):
    """Write a recipe, and a factory beside it; return the recipe's path."""

    def write(student, taught_by, **more):
        (tmp_path / "own.py").write_text(FACTORY)
        path = tmp_path / "pairs.yaml"
        keys = RECIPE | {"student": {"model": student}, "teacher": {"model": taught_by}} | more
        path.write_text(yaml.safe_dump(keys))
        return path

    return write


OWN = {"factory": "own:Net"}
VIT = {"kind": "vit", "width": 8, "heads": 2}
PAIRS = {
    "name": (
        {"kind": "resnet", "depth": 8, "widths": SMALL},
        {"kind": "resnet", "depth": 14, "widths": SMALL},
        [(["stage1", "stage2", "stage3"], "maps", "name"), (["pool"], "vectors", "what the last linear layer reads")],
    ),
    "size": (
        {"kind": "resnet", "depth": 8, "widths": SMALL},
        {"kind": "vgg", "widths": [4, 4, 4, 4, 4]},
        [({"stage2": "stage1", "stage3": "stage2"}, "maps", "size"), (["pool"], "vectors", None)],
    ),
    "own": (
        {"kind": "cnn", "channels": [4, 4]},
        OWN,
        [({"stage1": "layer2"}, "maps", "relative depth"), ({"pool": "head@input"}, "vectors", None)],
    ),
    "tokens": (
        {**VIT, "depth": 2},
        {**VIT, "depth": 5},
        [
            ({"blocks.0": "blocks.2", "blocks.1": "blocks.4"}, "tokens", "relative depth"),
            (["head@input"], "vectors", None),
        ],
    ),
    "unlike": ({"kind": "mlp", "hidden": [6]}, {"kind": "cnn", "channels": [4]}, [(["pool"], "vectors", None)]),
    "none": ({"kind": "mixture"}, {"kind": "cnn", "channels": [4]}, []),
}


@over("case", PAIRS)
def test_pairs_are_proposed_by_name_size_or_depth_and_can_be_read(written, case):
    student, teacher, expected = PAIRS[case]
    recipe = load_recipe(written(student, teacher))
    found = read_layers(recipe)
    assert [each.layers for each in found.proposals] == [layers for layers, _, _ in expected]
    networks = {"student": recipe.student, "teacher": recipe.teacher.members[0].model}
    for each, (_, kind, by) in zip(found.proposals, expected, strict=True):
        assert each.kind == kind
        assert by in (each.by, None)
        taps = Layers.of(each.layers).taps()
        for role, network in networks.items():
            given = {layer.path: layer.shape for layer in getattr(found, role).layers}
            features = run_model(network.build((1, 8, 8), 10).eval(), torch.zeros(2, 1, 8, 8), taps[role]).features
            for place, feature in features.items():
                assert feature.dim() == {"vectors": 2, "tokens": 3, "maps": 4}[kind]
                assert "@" in place or given[place] == feature.shape[1:]


def test_modules_that_give_nothing_are_listed_without_a_shape_and_the_last_call_counts():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.shared, self.idle = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(2, 2)
            self.many = nn.ModuleList([nn.Linear(4, 5)])

        def forward(self, x):
            hidden = self.shared(self.gru(x)[0])
            return self.many[0](self.shared(hidden.mean(1)))

    model = Odd()
    found = layers_of(model, lambda: model(torch.zeros(2, 6, 3)))
    assert {layer.path: layer.shape for layer in found.layers} == {
        "gru": (6, 4),
        "shared": (4,),
        "idle": None,
        "many.0": (5,),
    }
    assert found.pooled == "many.0@input"
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@over("wrapped", [False, True])
def test_house_networks_are_listed_with_their_stages_and_pre_activations(wrapped):
    model = models.wrn((3, 8, 8), 4, depth=10, width=1)
    outer = TransformedInput(RestrictedModel(model, [2, 0], 4), (8, 8), None, None) if wrapped else model
    found = layers_of(outer, lambda: run_model(outer, torch.zeros(2, 3, 4, 4)).logits)
    assert [layer.path for layer in found.stages] == ["stage1", "stage2", "stage3"]
    assert {layer.path: layer.preactivation for layer in found.layers if layer.preactivation} == model.preactivations


def test_a_teacher_without_layers_is_named_and_the_student_listed(written):
    mlp = {"kind": "mlp", "hidden": [4]}
    for more, said in (
        ({"teacher": {"estimator": {"kind": "random_forest"}}}, "has no layers: it is an estimator"),
        ({"teacher": {"model": mlp, "members": 3}}, "has no layers: it is the mean of 3 networks"),
        ({"scheme": {"name": "mutual"}}, "none: the scheme's networks teach each other"),
    ):
        found = read_layers(load_recipe(written(mlp, mlp, **more)))
        assert (found.note, found.teacher, found.student.pooled) == (said, None, "pool")
        assert bool(found.proposals) == ("scheme" in more)


@pytest.mark.thorough
def test_the_command_prints_lines_for_the_recipe_within_80_columns(written, limbeck, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = written({"kind": "resnet20"}, {"kind": "resnet56"})
    answer = limbeck("layers", path)
    assert answer.code == 0
    assert "stage1.0 to stage1.8" in answer.out
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [yaml.safe_load(line)["layers"] for line in lines if line.startswith("  layers: ")] == [
        ["stage1", "stage2", "stage3"],
        ["pool"],
    ]
    assert "stage1.0.conv1" not in answer.out
    assert "stage1.0.conv1" in limbeck("layers", path, "--depth", "3").out
    found = json.loads(limbeck("layers", path, "--json").out)
    assert {layer["path"]: layer["shape"] for layer in found["student"]["layers"]}["stage2.1.conv2"] == [32, 4, 4]
    assert found["proposals"][1]["layers"] == ["pool"]


def test_layers_are_listed_for_a_method_that_lacks_them(written, limbeck):
    search = {"method.weight": [1.0, 2.0]}
    path = written({"kind": "cnn"}, {"kind": "cnn"}, method={"name": "attention_transfer"}, search=search)
    answer = limbeck("check", path)
    assert answer.code == 2
    assert answer.lines == [
        "limbeck: method.layers: is missing; add paths such as stage3, which limbeck layers RECIPE lists"
    ]
    answer = limbeck("layers", path)
    assert answer.code == 0
    assert "  layers: [stage1]" in answer.out


def test_a_mistake_is_one_line(written, limbeck):
    path = written({"kind": "resnet20"}, {"kind": "resnet56"})
    for words, line in (
        (("student.model.kind=resnt",), "limbeck: student.model.kind: found 'resnt'; did you mean 'resnet'?"),
        (
            ("student.model.depth=8",),
            "limbeck: student.model.depth: found 8 beside kind: resnet20, which sets it to 20;",
        ),
        (("no-recipe",), "limbeck: "),
    ):
        answer = limbeck("layers", *([path, *words] if "=" in words[0] else words))
        assert answer.code == 2
        assert answer.out == ""
        assert answer.lines[0].startswith(line)
        assert len(answer.lines) == 1
