"""The networks against the published counts, against plain references, and what their keys do."""

import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from limbeck import models
from limbeck.config.networks import read_model
from limbeck.config.sections import parse
from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.evaluation import flops, parameters
from limbeck.models.layers import StochasticDepth, shuffled, survivals
from limbeck.outputs import Tap, run_model
from walk import over

CIFAR = (3, 32, 32)
# Parameters for 100 classes, as the repositories of Tian et al. (2020) and Zhao et al. (2022) have them.
COUNTS = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet18": 11_220_132,
    "resnet50": 23_705_252,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}


@over(("name", "count"), [*COUNTS.items()])
def test_parameters_are_as_many_as_published(name, count):
    with torch.device("meta"):
        assert parameters(models.builder(name)(CIFAR, 100)) == count


def test_a_wide_network_has_as_many_parameters_as_in_its_paper():
    with torch.device("meta"):
        assert parameters(models.wrn(CIFAR, 100, depth=28, width=10)) == 36_536_884


@pytest.mark.thorough
def test_every_name_of_the_literature_stands_for_a_network_of_a_recipe():
    networks = dict(models.published())
    assert networks.pop("transformers") == ("pretrained", {})  # a library's name, whose networks are of texts
    for name, (family, keys) in networks.items():
        spec = read_model({"kind": name}, "student.model", Path())
        assert spec.keys().items() >= {"kind": family, **keys}.items()
        with torch.device("meta"):
            built = models.builder(name)(CIFAR, 10)
            assert repr(built) == repr(models.builder(family)(CIFAR, 10, **keys))
    assert read_model({"kind": "resnet20", "survival": 0.8}, "student.model", Path()).keys()["survival"] == 0.8
    with pytest.raises(
        RecipeError, match=r"^student.model.depth: found 14 beside kind: resnet8x4, which sets it to 8;"
    ):
        read_model({"kind": "resnet8x4", "depth": 14}, "student.model", Path())
    with pytest.raises(RecipeError, match=r"^student.model.kind: found 'resnet21'; did you mean 'resnet'"):
        read_model({"kind": "resnet21"}, "student.model", Path())


def test_every_depth_of_the_tables_is_built():
    with torch.device("meta"):
        for depth in (8, 14, 20, 32, 44, 56, 110):
            model = models.resnet(CIFAR, 100, depth=depth)
            assert (
                sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in model.modules()) + 1
                == depth
            )
        for depth in (8, 11, 13, 16, 19):
            model = models.vgg(CIFAR, 100, depth=depth)
            assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) + 3 == depth
        for depth in (16, 40):
            model = models.wrn(CIFAR, 100, depth=depth, width=1)
            convolutions = sum(
                isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in model.modules()
            )
            assert convolutions + 3 == depth


def test_multiply_adds_are_the_sum_over_layers():
    # ResNet-20: the stem; three stages of six 3×3 convolutions, each stage's first halving the maps from the second on.
    wanted = 32 * 32 * 9 * 3 * 16 + 64 * 100
    for stage, (before, width, size) in enumerate(((16, 16, 32), (16, 32, 16), (32, 64, 8))):
        wanted += size * size * (9 * before * width + 5 * 9 * width * width + (before * width if stage else 0))
    assert flops(models.resnet(CIFAR, 100, depth=20), torch.zeros(1, *CIFAR)) == 2 * wanted


@pytest.mark.thorough
def test_maps_halve_where_the_tables_have_it():
    sizes = {
        "resnet": [32, 32, 16, 8],
        "wrn": [32, 32, 16, 8],
        "vgg": [32, 16, 8, 4, 4],
        "mobilenet_v2": [16, 16, 8, 4, 2],
        "shufflenet_v1": [32, 16, 8, 4],
        "shufflenet_v2": [32, 16, 8, 4],
        "resnet_imagenet": [32, 32, 16, 8, 4],
    }
    for name, expected in sizes.items():
        model = models.builder(name)(CIFAR, 100).eval()
        paths = ["stem", *(f"stage{number}" for number in range(1, len(expected)))]
        with torch.no_grad():
            features = run_model(model, torch.zeros(1, *CIFAR), {path: path for path in paths}).features
        assert [features[path].shape[-1] for path in paths] == expected, name


def test_large_images_are_halved_once_more_by_vgg():
    model = models.vgg((3, 64, 64), 10, widths=(4, 4, 4, 4, 4)).eval()
    with torch.no_grad():
        assert run_model(model, torch.zeros(1, 3, 64, 64), {"last": "stage4"}).features["last"].shape[-1] == 4


# ----------------------------------------------------------------------------------------------------------- references


class Reader:
    """A state in the order of its layers: the references take what they need next, whatever it is called."""

    def __init__(self, model):
        self.layers = [
            module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
        ]
        self.used = 0

    def take(self, kind):
        layer = self.layers[self.used]
        assert isinstance(layer, kind)
        self.used += 1
        return layer

    def conv(self, x, stride=1, groups=1):
        layer = self.take(nn.Conv2d)
        size = layer.weight.shape[-1]
        columns = F.unfold(x, size, padding=size // 2, stride=stride)  # (N, C·size², places)
        width = x.shape[1] // groups * size * size
        parts = [
            weight.flatten(1) @ columns[:, number * width : (number + 1) * width]
            for number, weight in enumerate(layer.weight.chunk(groups))
        ]
        out = torch.cat(parts, 1) + (0 if layer.bias is None else layer.bias[:, None])
        return out.unflatten(-1, [(extent - 1) // stride + 1 for extent in x.shape[2:]])

    def norm(self, x):
        layer = self.take(nn.BatchNorm2d)
        mean, var, weight, bias = (
            each[:, None, None] for each in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return (x - mean) / torch.sqrt(var + layer.eps) * weight + bias

    def conv_norm(self, x, stride=1, groups=1):
        return self.norm(self.conv(x, stride, groups))

    def logits(self, x):
        layer = self.take(nn.Linear)
        assert self.used == len(self.layers)
        return x.flatten(2).sum(-1) / x[0, 0].numel() @ layer.weight.T + layer.bias


def relu(x):
    return x * (x > 0)


def plain_shuffle(x, groups):
    out, width = torch.empty_like(x), x.shape[1] // groups
    for channel in range(x.shape[1]):
        out[:, channel % width * groups + channel // width] = x[:, channel]
    return out


def resnet_reference(model, x):
    read = Reader(model)
    x = relu(read.conv_norm(x))
    for stage in (1, 2, 3):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            branch = read.conv_norm(relu(read.conv_norm(x, stride)))
            x = relu(branch + (read.conv_norm(x, stride) if stride == 2 else x))
    return read.logits(x)


def bottleneck_reference(model, x):
    read = Reader(model)
    x = relu(read.conv_norm(x))
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            stride = 2 if stage and block == 0 else 1
            branch = read.conv_norm(relu(read.conv_norm(relu(read.conv_norm(x)), stride)))
            x = relu(branch + (x if block else read.conv_norm(x, stride)))
    return read.logits(x)


def wrn_reference(model, x):
    read = Reader(model)
    x = read.conv(x)
    for stage in (1, 2, 3):
        for block in range(2):
            active = relu(read.norm(x))
            stride = 2 if stage > 1 and block == 0 else 1
            branch = read.conv(relu(read.norm(read.conv(active, stride))))
            x = branch + (read.conv(active, stride) if block == 0 else x)
    return read.logits(relu(read.norm(x)))


def vgg_reference(model, x):
    read = Reader(model)
    for stage in range(5):
        if 0 < stage < 4:
            n, channels, height, width = x.shape
            x = x.view(n, channels, height // 2, 2, width // 2, 2).amax((3, 5))
        x = relu(read.conv_norm(x))
    return read.logits(x)


def mobilenet_reference(model, x):
    read = Reader(model)
    x = relu(read.conv_norm(x, 2))
    for channels, count, first_stride in (
        (8, 1, 1),
        (12, 2, 1),
        (16, 3, 2),
        (32, 4, 2),
        (48, 3, 1),
        (80, 3, 2),
        (160, 1, 1),
    ):
        for block in range(count):
            stride = first_stride if block == 0 else 1
            wide = relu(read.conv_norm(x))
            narrow = read.conv_norm(relu(read.conv_norm(wide, stride, wide.shape[1])))
            assert narrow.shape[1] == channels
            x = narrow + x if block else narrow
    return read.logits(relu(read.conv_norm(x)))


def shufflenet_v1_reference(model, x):
    read = Reader(model)
    x = relu(read.conv_norm(x))
    for stage, count in enumerate((4, 8, 4)):
        for block in range(count):
            groups = 1 if stage == block == 0 else 3
            branch = plain_shuffle(relu(read.conv_norm(x, 1, groups)), groups)
            branch = relu(read.conv_norm(branch, 1 if block else 2, branch.shape[1]))
            branch = read.conv_norm(branch, 1, 3)
            if block == 0:
                pooled = F.unfold(x, 3, padding=1, stride=2).unflatten(1, (x.shape[1], 9)).mean(2)
                x = relu(torch.cat([branch, pooled.view(*x.shape[:2], *branch.shape[2:])], 1))
            else:
                x = relu(branch + x)
    return read.logits(x)


def shufflenet_v2_reference(model, x):
    read = Reader(model)
    x = relu(read.conv_norm(x))
    for count in (4, 8, 4):
        for block in range(count):
            stride, half = (1 if block else 2), x.shape[1] // 2
            left, right = (x[:, :half], x[:, half:]) if block else (x, x)
            if block == 0:
                left = relu(read.conv_norm(read.conv_norm(left, 2, left.shape[1])))
            right = relu(read.conv_norm(right))
            right = relu(read.conv_norm(read.conv_norm(right, stride, right.shape[1])))
            x = plain_shuffle(torch.cat([left, right], 1), 2)
    return read.logits(relu(read.conv_norm(x)))


REFERENCES = {
    "resnet": ({"depth": 14, "widths": (4, 4, 6, 8)}, resnet_reference),
    "resnet_imagenet": ({"depth": 50, "width": 2}, bottleneck_reference),
    "wrn": ({"depth": 16, "width": 2}, wrn_reference),
    "vgg": ({"depth": 8, "widths": (4, 6, 8, 10, 12)}, vgg_reference),
    "mobilenet_v2": ({}, mobilenet_reference),
    "shufflenet_v1": ({}, shufflenet_v1_reference),
    "shufflenet_v2": ({}, shufflenet_v2_reference),
}


@pytest.mark.thorough
@over("name", REFERENCES)
def test_answers_agree_with_a_plain_reference(name):
    keys, reference = REFERENCES[name]
    model = models.builder(name)((3, 16, 16), 7, **keys).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(std=0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    inputs = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        found, expected = model(inputs), reference(model, inputs)
    assert float(expected.std()) > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_a_shuffle_lets_the_groups_exchange_their_channels():
    maps = torch.randn(2, 12, 3, 3)
    for groups in (1, 2, 3, 4, 12):
        assert torch.equal(shuffled(maps, groups), plain_shuffle(maps, groups))
    assert torch.equal(shuffled(maps, 1), maps)


def test_the_pre_activation_of_a_block_is_the_input_of_its_last_relu():
    model = models.resnet(CIFAR, 10, depth=8).eval()
    taps = {"before": Tap("stage2.0.relu2", side="input"), "after": "stage2"}
    features = run_model(model, torch.randn(2, *CIFAR), taps).features
    assert (features["before"] < 0).any()
    assert torch.equal(features["before"].relu(), features["after"])


# ------------------------------------------------------------------------------------------------------ initial weights


@pytest.mark.thorough
@over("name", ["resnet", "wrn", "vgg", "mobilenet_v2", "resnet18"])
def test_convolutions_start_as_he_has_them(name):
    torch.manual_seed(0)
    drawn = []
    for module in models.builder(name)(CIFAR, 100).modules():
        if isinstance(module, nn.Conv2d):
            size = module.kernel_size[0]
            drawn.append(module.weight.flatten() / math.sqrt(2 / (size * size * module.out_channels)))
            assert module.bias is None or not module.bias.any()
    values = torch.cat(drawn).detach()
    assert float(values.std()) == pytest.approx(1, abs=0.01)
    assert stats.kstest(values[::17].numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize(("name", "deviation"), [("vgg", 0.01), ("mobilenet_v2", 0.01), ("wrn", None)])
def test_the_last_layer_starts_small_or_without_bias(name, deviation):
    last = models.builder(name)(CIFAR, 100).fc
    assert not last.bias.any()
    if deviation:
        assert float(last.weight.detach().std()) == pytest.approx(deviation, rel=0.03)


def test_tanh_layers_start_as_glorot_has_them():
    torch.manual_seed(0)
    model = models.residual_tanh(300, 200, hidden=(400, 100))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            deviation = math.sqrt(2 / (module.in_features + module.out_features))
            assert float(module.weight.detach().std()) == pytest.approx(deviation, rel=0.02)


# ----------------------------------------------------------------------------------------------------- stochastic depth


def test_survival_falls_linearly_from_the_input():
    assert survivals(1, 0.5) == [0.5]
    assert survivals(5, 0.5) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    for name, keys in (("resnet", {"depth": 20}), ("wrn", {"depth": 22})):
        model = models.builder(name)(CIFAR, 10, survival=0.8, **keys)
        found = [module.survival for module in model.modules() if isinstance(module, StochasticDepth)]
        assert found == pytest.approx([1 - block / 9 * 0.2 for block in range(1, 10)])


def test_without_it_nothing_of_it_is_built():
    for name in ("resnet", "wrn"):
        model = models.builder(name)(CIFAR, 10)
        assert not any(isinstance(module, StochasticDepth) for module in model.modules())


def test_samples_lose_a_branch_as_often_as_asked_and_whole():
    drop = StochasticDepth(0.7).train()
    branch = torch.rand(4000, 2, 3, 3) + 1
    found = drop(branch)
    kept = found.flatten(1).all(1)
    assert torch.equal(found, branch * kept[:, None, None, None])
    assert stats.binomtest(int(kept.sum()), 4000, 0.7).pvalue > 1e-4


def test_in_eval_a_branch_counts_as_often_as_it_survives():
    branch = torch.rand(3, 2, 3, 3)
    drop = StochasticDepth(0.7)
    assert torch.equal(drop.eval()(branch), branch * 0.7)
    state = torch.get_rng_state()
    drop(branch)
    assert torch.equal(torch.get_rng_state(), state)


def test_depth_is_drawn_from_the_frameworks_generator():
    model = models.resnet(CIFAR, 10, depth=8, survival=0.5).train()
    inputs = torch.randn(16, *CIFAR)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model(inputs))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(
    ("name", "before", "last"), [("resnet", "stage3.1", "stage3.2"), ("wrn", "stage3.0", "stage3.1")]
)
def test_a_block_whose_branch_is_left_out_is_its_shortcut(name, before, last):
    model = models.builder(name)(CIFAR, 10, survival=1e-9)
    features = run_model(model, torch.randn(8, *CIFAR), {"before": before, "after": last}).features
    assert torch.equal(features["before"], features["after"])


def test_a_branch_keeps_its_type():
    drop = StochasticDepth(0.5).train()
    assert drop(torch.rand(8, 2).to(torch.bfloat16)).dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------------------ bad input


@over(
    ("name", "keys", "line"),
    [
        ("resnet", {"depth": 21}, "depth: found 21, expected 6n \\+ 2"),
        ("resnet", {"depth": 2}, "depth: found 2"),
        ("resnet", {"depth": 6 * 10**9 + 2}, "up to 2000"),
        ("resnet", {"depth": 20.0}, "whole number"),
        ("resnet", {"widths": (16, 32, 64)}, "widths: found 3, expected 4"),
        ("resnet", {"widths": (16, 16, 0, 64)}, "widths: found 0"),
        ("resnet", {"survival": 0.0}, "survival: found 0.0"),
        ("resnet", {"survival": 1.5}, "survival: found 1.5"),
        ("resnet", {"survival": float("nan")}, "survival: found nan"),
        ("wrn", {"depth": 20}, "depth: found 20, expected 6n \\+ 4"),
        ("wrn", {"width": 0}, "width: found 0"),
        ("wrn", {"dropout": 1.1}, "dropout: found 1.1"),
        ("wrn", {"survival": -1}, "survival: found -1"),
        ("vgg", {"depth": 10}, "depth: found 10, expected one of: 8, 11, 13, 16, 19"),
        ("vgg", {"depth": "8"}, "depth: found '8'"),
        ("resnet_imagenet", {"depth": 20}, "depth: found 20, expected one of: 18, 34, 50, 101, 152"),
        ("resnet_imagenet", {"width": 0}, "width: found 0"),
        ("vgg", {"widths": (1, 2)}, "widths: found 2, expected 5"),
        ("mobilenet_v2", {"width": 0}, "width: found 0"),
        ("mobilenet_v2", {"width": float("inf")}, "width: found inf"),
        ("mobilenet_v2", {"expansion": 0}, "expansion: found 0"),
        ("shufflenet_v1", {"groups": 4}, "groups: found 4, expected one of: 1, 2, 3"),
        ("shufflenet_v2", {"width": 0.7}, "width: found 0.7, expected one of: 0.5, 1, 1.5, 2"),
        ("residual_tanh", {"hidden": ()}, "hidden: found none"),
        ("residual_tanh", {"hidden": (4, 0)}, "hidden: found 0"),
        ("residual_tanh", {"scale": 0.0}, "scale: found 0.0"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(name, keys, line):
    with pytest.raises(InputError, match=line) as caught:
        models.builder(name)(CIFAR, 10, **keys)
    assert "\n" not in str(caught.value)


def test_too_small_images_are_named_with_what_is_needed():
    with pytest.raises(
        ModelError, match="mobilenet_v2 halves its maps 4 times and needs images of 16 pixels, found 8×32"
    ):
        models.mobilenet_v2((1, 8, 32), 10)
    with pytest.raises(ModelError, match=r"resnet needs images \(C, H, W\), found inputs of shape \(64,\); use an mlp"):
        models.resnet((64,), 10)


def test_a_recipe_names_a_networks_key_that_is_wrong():
    given = frozenset({"input_shape", "classes"})
    section = parse(models.resnet, {"depth": 8, "widths": [4, 4, 8, 8], "survival": 0.9}, "student.model", given=given)
    assert parameters(section.build(input_shape=(1, 8, 8), classes=10)) < 5000
    with pytest.raises(RecipeError, match=r"student.model.dept: there is no such key; did you mean 'depth'"):
        parse(models.resnet, {"dept": 8}, "student.model", given=given)
    with pytest.raises(RecipeError, match=r"student.model.depth: found 9, expected 6n"):
        parse(models.resnet, {"depth": 9}, "student.model", given=given).build(input_shape=(1, 8, 8), classes=10)
