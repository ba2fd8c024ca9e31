"""The pretrained teacher of the benchmarks: its network has the published names, padding and parts."""

from pathlib import Path

import torch

from limbeck.config import load_recipe
from limbeck.evaluation import parameters

FOLDER = Path(__file__).parents[2] / "benchmarks" / "pretrained_teacher"


def built(classes):
    spec = load_recipe(FOLDER / "recipe.yaml").teacher.model.untrained()
    return spec.build((3, 96, 96), classes)


def test_the_network_has_the_tensors_of_the_published_file():
    network = built(1000)
    state = network.state_dict()
    assert (parameters(network), len(state)) == (4_652_008, 296)
    assert state["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert "_blocks.0._expand_conv.weight" not in state
    strides = [block._depthwise_conv.stride[0] for block in network._blocks]
    assert [number for number, stride in enumerate(strides) if stride == 2] == [1, 3, 5, 11]


def test_its_parts_follow_one_another():
    network, images = built(20).eval(), torch.rand(2, 3, 32, 32)
    head = network.replace_head(7)
    body, neck, last = network.split(15)
    with torch.no_grad():
        torch.testing.assert_close(last(neck(body(images))), network(images))
    assert last[1] is head
    assert network(images).shape == (2, 7)


def test_its_convolutions_pad_as_tensorflow_does():
    """With a stride of 2, an even side is padded at its end alone; an odd side at both."""
    convolution = built(20)._conv_stem
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 0, 0] = 1  # reads the first row and column of each window
    even, odd = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 7, 7)
    torch.testing.assert_close(convolution(even)[0, 0], even[0, 0, ::2, ::2])
    torch.testing.assert_close(convolution(odd)[0, 0, 1:, 1:], odd[0, 0, 1::2, 1::2])
    assert not convolution(odd)[0, 0, 0].any()
