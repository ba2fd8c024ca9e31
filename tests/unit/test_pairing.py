"""Layers of two networks and which of them are proposed as pairs."""

import torch
from torch import nn

from limbeck import models
from limbeck.experiment.pairing import layers_of, propose_pairs


def layers(network, *shape):
    network.eval()
    with torch.no_grad():
        return layers_of(network, lambda: network(torch.zeros(2, *shape)))


IMAGE = (3, 16, 16)
NETWORKS = {
    "resnet": lambda depth, width: models.resnet(IMAGE, 5, depth=depth, widths=(4, width, width, width)),
    "wrn": lambda depth, width: models.wrn(IMAGE, 5, depth=depth, widen=1),
    "cnn": lambda depth, width: models.cnn(IMAGE, 5, channels=(width,) * depth),
    "vgg": lambda depth, width: models.vgg(IMAGE, 5, depth=depth),
}


def test_layers_are_in_the_order_in_which_they_answer():
    found = layers(NETWORKS["cnn"](2, 4), *IMAGE)
    assert [each.path for each in found if "." not in each.path] == ["stem", "stage1", "pool", "fc"]
    stem = next(each for each in found if each.path == "stem")
    assert (stem.shape, stem.kind, stem.parameters) == ((2, 4, 8, 8), "Sequential", 4 * 27 + 8)
    bare = nn.Sequential(nn.Linear(3, 2))
    layers(bare, 3)
    assert not bare[0]._forward_hooks


def test_networks_that_name_their_parts_alike_are_paired_by_name():
    student, teacher = layers(NETWORKS["resnet"](8, 4), *IMAGE), layers(NETWORKS["resnet"](14, 8), *IMAGE)
    expected = ["stem", "stage1", "stage2", "stage3", "pool"]  # without the classifier
    assert propose_pairs(student, teacher) == {name: name for name in expected}


def test_other_networks_are_paired_by_size_and_depth():
    student, teacher = layers(NETWORKS["cnn"](2, 4), *IMAGE), layers(NETWORKS["resnet"](8, 4), *IMAGE)
    assert propose_pairs(student, teacher) == {"stem": "stage2", "stage1": "stage3", "pool": "pool"}  # 8×8 and 4×4
    assert propose_pairs(teacher, student) == {"stage2": "stem", "stage3": "stage1", "pool": "pool"}


class Blocks(nn.Module):
    """Blocks in a list, which is never called itself."""

    def __init__(self, depth):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(depth)])
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        tokens = self.embed(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def test_blocks_of_unlike_number_are_paired_by_relative_depth():
    found = propose_pairs(layers(Blocks(2), 5, 4), layers(Blocks(6), 5, 4))
    assert found == {"embed": "blocks.0", "blocks.0": "blocks.3", "blocks.1": "blocks.5"}
    alike = propose_pairs(layers(Blocks(2), 5, 4), layers(Blocks(2), 5, 4))
    assert alike == {"embed": "embed", "blocks.0": "blocks.0", "blocks.1": "blocks.1"}


def test_a_layer_and_its_relu_are_one_and_what_cannot_be_compared_is_left_out():
    shared = nn.ReLU()
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), shared, shared)
    outer = nn.Sequential(nn.Sequential(*network, nn.Linear(8, 4)))  # a wrapper of one part
    found = propose_pairs(layers(outer, 2, 3), layers(outer, 2, 3))
    assert found == {"0.2": "0.2", "0.4": "0.4"}  # the second ReLU is called twice
    assert propose_pairs(layers(nn.Linear(3, 2), 3), layers(outer, 2, 3)) == {}


def test_maps_are_not_paired_with_tokens():
    flat, mapped = (
        nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)),
    )
    assert propose_pairs(layers(flat, 8), layers(mapped, *IMAGE)) == {}
    tokens, maps = layers(Blocks(2), 5, 4), layers(NETWORKS["cnn"](2, 4), *IMAGE)
    assert propose_pairs(tokens, maps) == {}
    assert propose_pairs(maps, tokens) == {}
