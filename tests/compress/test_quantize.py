"""Quantised networks: what learns with rounded weights answers as what is stored, and is read again."""

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import Codes, Prune, Quantize, Statistics, quantisation, rebuilt, records_of, settled
from limbeck.compress import quantize as quantize_module
from limbeck.compress.weights import InputGrid
from limbeck.data import TensorSet
from limbeck.errors import InputError

DATA_OF_FOUR = TensorSet.of(torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3)

GENERATOR = torch.Generator().manual_seed(0)
DATA = lb.data.TensorSet.of(
    torch.randn(96, 3, 8, 8, generator=GENERATOR), torch.randint(4, (96,), generator=GENERATOR), classes=4
)


class Everything(nn.Module):
    """One layer of each kind that is quantised, and a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.codes = nn.Embedding(16, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.middle, self.fc = nn.Linear(6, 40), nn.Linear(40, 4)

    def forward(self, images):
        maps = self.norm(self.conv(images)).relu()
        ids = (images.mean((1, 2)) > 0).long().cumsum(1)
        steps = maps.mean(3).transpose(1, 2) + self.codes(ids)
        return self.fc(self.middle(self.lstm(steps)[0][:, -1]).relu())


def train(model, **settings):
    keys = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **settings}
    teacher = Everything()
    torch.manual_seed(1)
    for weights in teacher.parameters():
        nn.init.normal_(weights, std=0.3)
    return lb.fit(model, DATA, teacher=teacher, method=lb.methods.kd(), **keys).student


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "keys",
    [
        {"to": "int8"},
        {"to": "int8", "group": 5, "activations": "dynamic"},
        {"to": "int4", "group": 4, "activations": "static", "freeze": 4},
        {"to": "int4", "learned": True},
        {"to": "fp16"},
        {"to": "bf16"},
    ],
)
def test_what_was_trained_with_rounded_weights_answers_as_what_is_stored(keys, tmp_path):
    model, log = Quantize(skip=(), **keys).apply(Everything(), Statistics.of(DATA, 32))
    assert set(log.changed) == {"conv", "codes", "lstm", "middle", "fc"}
    start = model.eval()(DATA.inputs)
    small = settled(model)
    assert torch.equal(small(DATA.inputs), start)
    trained = train(model).eval()
    small = settled(trained)
    assert not any(each.requires_grad and each.dim() > 1 for each in small.parameters())
    answer = trained(DATA.inputs)
    assert not torch.allclose(answer, start)
    assert torch.equal(small(DATA.inputs), answer)
    again = rebuilt(Everything(), records_of(small)).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(DATA.inputs), answer)
    unsettled = rebuilt(Everything(), records_of(trained)).eval()
    unsettled.load_state_dict(trained.state_dict())
    assert torch.equal(unsettled(DATA.inputs), answer)


def test_the_codes_are_those_of_the_weights_and_take_a_byte_or_half_of_one():
    plain = Everything()
    for to, bits in (("int8", 8), ("int4", 4)):
        small = settled(Quantize(to=to, skip=(), group=0).apply(plain)[0])
        grid = quantisation.quantize(plain.lstm.weight_hh_l0.detach(), bits)
        state = small.state_dict()
        codes = state["lstm.parametrizations.weight_hh_l0.original"]
        codes = codes if bits == 8 else quantisation.unpack(codes, 24 * 6).reshape(24, 6)
        assert codes.equal(grid.codes)
        assert small.lstm.weight_hh_l0.equal(quantisation.dequantize(grid))
        assert state["fc.parametrizations.weight.original"].nbytes == 160 * bits // 8


def test_learned_steps_are_stored_with_their_lowest_code():
    plain = nn.Sequential(nn.Linear(16, 4))
    with torch.no_grad():
        plain[0].weight[:, 0] = -50.0
    model, _ = Quantize(to="int4", learned=True, skip=()).apply(plain)
    small, inputs = settled(model), torch.randn(3, 16)
    assert torch.equal(small(inputs), model(inputs))
    assert int(quantisation.unpack(small.state_dict()["0.parametrizations.weight.original"], 64).min()) == -8


def test_the_student_keeps_full_weights_while_it_learns_and_ranges_freeze():
    model, _ = Quantize(to="int8", activations="static", freeze=6, skip=()).apply(Everything(), Statistics.of(DATA, 32))
    seen = []
    model.before_step = (
        *model.before_step,
        lambda student, step: seen.append(
            (float(student.fc.input_grid.high), student.norm.training, student.norm.running_mean.clone())
        ),
    )
    train(model, learning_rate=0.2)
    highs = [high for high, _, _ in seen]
    assert len(set(highs[:7])) == 7  # it follows the batches until step 6
    assert len(set(highs[6:])) == 1
    assert [training for _, training, _ in seen] == [True] * 6 + [False] * 6
    assert seen[6][2].equal(seen[11][2])


def test_pruned_weights_stay_0_when_they_are_quantised_and_retrained():
    pruned, _ = Prune(sparsity=0.75, skip=()).apply(Everything())
    model, _ = Quantize(to="int8", skip=()).apply(pruned)
    trained = train(model).eval()
    zeros = {name: getattr(pruned.get_submodule(path), name) == 0 for path, name in (("fc", "weight"), ("lstm", "weight_ih_l0"))}  # fmt: skip  # noqa: E501
    assert (trained.fc.weight[zeros["weight"]] == 0).all()
    assert (trained.lstm.weight_ih_l0[zeros["weight_ih_l0"]] == 0).all()
    small = settled(trained)
    assert torch.equal(small(DATA.inputs), trained(DATA.inputs))
    again = rebuilt(Everything(), records_of(small)).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(DATA.inputs), small(DATA.inputs))
    with pytest.raises(InputError, match="'conv': its weight is quantised or shared already; prune first"):
        Prune(skip=()).apply(model)


def test_shared_values_learn_as_one_and_zeros_stay():
    pruned, _ = Prune(sparsity=0.5, skip=()).apply(Everything())
    model, log = Codes(bits=3).apply(pruned)
    assert log.changed["fc"] == "Linear (4, 40): 80 weights share 8 values"
    table = model.fc.parametrizations.weight.original
    assert table.shape == (8,)
    loss = model(DATA.inputs).square().sum()
    weight = model.fc.weight.detach()
    (own,) = torch.autograd.grad(loss, table)
    plain = settled(pruned)
    with torch.no_grad():
        for path, name in (("conv", "weight"), ("codes", "weight"), ("middle", "weight"), ("fc", "weight"), ("lstm", "weight_ih_l0"), ("lstm", "weight_hh_l0")):  # fmt: skip  # noqa: E501
            getattr(plain.get_submodule(path), name).copy_(getattr(model.get_submodule(path), name))
    (each,) = torch.autograd.grad(plain(DATA.inputs).square().sum(), plain.fc.weight)
    summed = [float(each[(weight == value) & (weight != 0)].sum()) for value in table.detach()]
    assert own.tolist() == pytest.approx(summed, rel=1e-4, abs=1e-4)
    trained = train(model)
    assert (trained.fc.weight[pruned.fc.weight == 0] == 0).all()
    found = trained.fc.weight[pruned.fc.weight != 0].unique()
    assert set(found.tolist()) <= set(trained.fc.parametrizations.weight.original.tolist())
    again = rebuilt(Everything(), records_of(trained))
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again.fc.weight, trained.fc.weight)


def test_defaults_skip_the_first_and_the_last_layer_of_a_grid_and_nothing_of_16_bits():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    assert list(Quantize().apply(model)[1].changed) == ["1"]
    half, log = Quantize(to="fp16").apply(model)
    assert list(log.changed) == ["0", "1", "3"]
    assert log.kept == {"2": "quantize does not change a LayerNorm"}
    assert {name: str(each.dtype) for name, each in settled(half).state_dict().items()} == {
        "0.parametrizations.weight.original": "torch.float16", "0.parametrizations.bias.original": "torch.float16",
        "1.parametrizations.weight.original": "torch.float16", "1.parametrizations.bias.original": "torch.float16",
        "3.parametrizations.weight.original": "torch.float16", "3.parametrizations.bias.original": "torch.float16",
        "2.weight": "torch.float32", "2.bias": "torch.float32",
    }  # fmt: skip
    with torch.no_grad():
        model[1].weight[0, 0] = 1e6
    with pytest.raises(InputError, match="found 1e\\+06, expected at most 65504 for fp16; use bf16"):
        Quantize(to="fp16").apply(model)


def test_keys_that_do_not_go_together_are_refused():
    for keys, line in [
        ({"to": "fp16", "learned": True}, "to: found fp16, which has no grid"),
        ({"by": "mse"}, "by: found mse, expected activations: static"),
        ({"to": "int2"}, "to: found 'int2'"),
    ]:
        with pytest.raises(InputError, match=line):
            Quantize(**keys)
    with pytest.raises(InputError, match="expected Statistics of training data"):
        Quantize(activations="static", skip=()).apply(Everything())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_static_range_follows_inputs_of_every_type(dtype):
    grid = InputGrid(8, dynamic=False, maps=False, low=-1.0, high=1.0).train()
    grid(torch.tensor([[-3.0, 3.0]], dtype=dtype))
    assert (float(grid.low), float(grid.high)) == pytest.approx((-1.02, 1.02))


def test_static_ranges_can_be_retrained_in_mixed_precision():
    model = nn.Sequential(nn.Linear(4, 3))
    small = Quantize(activations="static", skip=()).apply(model, Statistics.of(DATA_OF_FOUR, 8))[0].train()
    with torch.autocast("cpu", torch.bfloat16):
        small(torch.randn(2, 4)).sum().backward()


@pytest.mark.parametrize(("by", "follows"), [("minmax", True), ("percentile", False), ("mse", False)])
def test_training_moves_the_range_of_least_and_largest_alone(by, follows):
    """What a percentile or an error chose would be undone by one large value."""
    model = (
        Quantize(activations="static", by=by, skip=(), freeze=1)
        .apply(nn.Sequential(nn.Linear(4, 3)), Statistics.of(DATA_OF_FOUR, 8))[0]
        .train()
    )
    before = float(model[0].input_grid.high)
    for hook in model.before_step:
        hook(model, 0)
    model(torch.full((2, 4), 100.0))
    assert (float(model[0].input_grid.high) != before) is follows
    for hook in model.before_step:
        hook(model, 1)
    frozen = float(model[0].input_grid.high)
    model(torch.full((2, 4), 100.0))
    assert float(model[0].input_grid.high) == frozen


def test_calibration_comes_by_every_feature(monkeypatch):
    """A sample of the values with a stride that divides the features would see some features alone."""
    monkeypatch.setattr(quantize_module, "_MOST_VALUES", 8)
    inputs = torch.full((16, 4), 0.1)
    inputs[:, 3] = 8.0
    inputs[0] = 0.0
    seen = []
    monkeypatch.setattr(
        quantize_module, "activation_range", lambda values, by: seen.append(values) or (values.amin(), values.amax())
    )
    data = TensorSet.of(inputs, torch.arange(16) % 3)
    Quantize(activations="static", skip=()).apply(nn.Sequential(nn.Linear(4, 3)), Statistics.of(data, 16))
    values = torch.cat(seen)[:-2]  # without the ends, which are added
    assert (values == 8.0).any()
    assert (values == 0.1).any()


def test_each_row_begins_with_a_step_of_its_own():
    """Of its weights that are not 0: with the step of the whole layer a small row is rounded to 0."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        layer.weight[1] *= 0.01
        layer.weight[2, 6:] = 0.0
    small = Quantize(to="int4", group=0, learned=True, skip=()).apply(nn.Sequential(layer))[0]
    rows = small[0].weight.detach()
    steps = next(each for name, each in small.named_parameters() if "original" not in name).detach()
    means = [float(row[row != 0].abs().mean()) for row in layer.weight.detach()]
    assert steps.flatten().tolist() == pytest.approx([2 * mean / 7**0.5 for mean in means], rel=1e-6)
    assert (rows[1] != 0).any()


@pytest.mark.parametrize(("to", "dtype"), [("fp16", torch.float64), ("bf16", torch.bfloat16), ("fp16", torch.float32)])
def test_sixteen_bits_answer_in_the_networks_own_type(to, dtype):
    model = nn.Sequential(nn.Linear(4, 3)).to(dtype)
    small = Quantize(to=to).apply(model)[0].eval()
    inputs = torch.randn(2, 4, dtype=dtype)
    assert torch.equal(settled(small)(inputs), small(inputs))
