"""Networks of timm: how they are asked for and loaded, with a module that stands for the library."""

import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck import models
from limbeck.config import Recipe
from limbeck.data import TensorSet
from limbeck.errors import ModelError
from limbeck.experiment.building import check_weights
from walk import over


class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.num_classes = classes
        self.body = nn.Conv2d(channels, 4, 1)
        self.fc = nn.Linear(4, classes)

    def reset_classifier(self, classes):
        self.num_classes, self.fc = classes, nn.Linear(4, classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


@pytest.fixture
def asked(monkeypatch):
    """What the library that stands for timm was asked for."""
    calls = []

    def create_model(name, pretrained=False, in_chans=3, num_classes=1000, drop_rate=0.0):
        calls.append((name, pretrained, in_chans, num_classes, drop_rate))
        if name == "resnet5":
            raise RuntimeError(f"Unknown model ({name})\nand more")
        if name == "hf-hub:a/b":
            raise ConnectionError("no network")
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = Net(in_chans, num_classes)
        if pretrained:
            nn.init.constant_(net.body.weight, 0.5)
        return net

    library = types.ModuleType("timm")
    library.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", library)
    return calls


def saved(folder, classes=10):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "small", "num_classes": classes}))
    weights = {name: torch.full_like(each, 0.25) for name, each in Net(3, classes).state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return str(folder)


def test_a_network_by_name_has_the_weights_of_the_library(asked):
    net = models.timm((1, 8, 8), 1000, name="small", drop_rate=0.1)
    assert asked == [("small", True, 1, 1000, 0.1)]
    assert bool((net.body.weight == 0.5).all())
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 1000)
    fresh = models.timm((3, 8, 8), 7, name="small", pretrained=False)
    assert asked[-1] == ("small", False, 3, 7, 0.0)
    assert fresh.num_classes == 7


def test_a_folder_is_read_without_a_network(asked, tmp_path):
    net = models.timm((3, 8, 8), 10, folder=saved(tmp_path / "net"))
    assert asked == [("small", False, 3, 10, 0.0)]
    assert all(bool((each == 0.25).all()) for each in net.state_dict().values())


def test_a_new_head_is_known_as_drawn(asked, tmp_path):
    net = models.timm((3, 8, 8), 4, folder=saved(tmp_path / "net"), new_head=True)
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert net.drawn_anew


@over(
    ("keys", "message"),
    [
        (
            {"name": "small"},
            "classes: 'small' answers for 1000 classes, the data has 4; expected as many.",
        ),
        ({"name": "resnet5"}, "name: timm cannot make 'resnet5' (RuntimeError: Unknown model (resnet5)"),
        ({"name": "hf-hub:a/b"}, "(ConnectionError: no network); check the name and the network, or give folder:"),
        ({"folder": "nowhere"}, "folder: 'nowhere/config.json' cannot be read"),
        ({}, "name: found '' and folder: ''"),
    ],
)
def test_what_is_not_there_is_one_line(asked, keys, message):
    with pytest.raises(ModelError) as caught:
        models.timm((3, 8, 8), 4, **keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"kind: timm needs the library timm \(.*\); pip install timm"):
        models.timm((3, 8, 8), 4, name="small")


def test_a_recipe_takes_it_as_it_is_and_builds_it_again_without_weights(asked, tmp_path):
    saved(tmp_path / "net", classes=4)
    keys = {
        "name": "r",
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "timm", "folder": "net"}, "input": {"size": 8, "mean": [0.5], "std": [0.5]}},
        "student": {"model": {"kind": "mlp"}},
    }
    read = Recipe.parse(keys, tmp_path)
    member = read.teacher.members[0]
    assert member.given
    assert member.model.keys()["folder"] == str(tmp_path / "net")
    samples = TensorSet.of(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), mean=[0.5] * 3, std=[0.5] * 3)
    spec = Recipe.parse({**keys, "teacher": {"model": keys["teacher"]["model"]}}, tmp_path).teacher.members[0].model
    net = spec.build_for(samples)
    check_weights(net, spec)
    assert bool((net.fc.weight == 0.25).all())
    again = spec.untrained().build_for(samples)
    assert asked[-1] == ("small", False, 3, 4, 0.0)
    assert again.state_dict().keys() == net.state_dict().keys()
    by_name = {**keys, "teacher": {"model": {"kind": "timm", "name": "small"}}}
    assert Recipe.parse(by_name, tmp_path).teacher.members[0].given
    fresh = {**keys, "teacher": {"model": {"kind": "timm", "name": "small", "pretrained": False}}}
    assert Recipe.parse(fresh, tmp_path).teacher.members[0].learns


def test_transformers_is_another_name_of_pretrained():
    keys = {"name": "r", "data": {"kind": "digits"}, "student": {"model": {"kind": "mlp"}}}
    teacher = {"model": {"kind": "transformers", "hub": "someone/model"}}
    read = Recipe.parse({**keys, "teacher": teacher})
    assert read.keys["teacher"]["model"]["kind"] == "pretrained"
    assert read.teacher.members[0].given
