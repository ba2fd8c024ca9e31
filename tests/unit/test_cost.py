"""The cost of a model: counts against pencil and paper, bytes against the file, times only for their sense."""

import time

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.evaluation import cost, file_bytes, flops, parameters, peak_memory, time_forward
from limbeck.models import builder
from limbeck.records import plain_values
from limbeck.training import load_weights, save_weights


class Slow(nn.Module):
    """Takes a known time and keeps count."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.calls = seconds, 0
        self.modes = set()

    def forward(self, inputs):
        time.sleep(self.seconds)
        self.calls += 1
        self.modes.add((self.training, torch.is_grad_enabled()))
        return inputs


def convolutional():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def test_operations_are_those_of_the_formulas():
    assert flops(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)), torch.zeros(1, 20)) == 2 * (600 + 120)
    assert flops(convolutional(), torch.zeros(1, 3, 8, 8)) == 2 * (8 * 3 * 9 * 64 + 512 * 10)
    assert flops(nn.Linear(20, 30), torch.zeros(5, 20)) == 5 * 2 * 600


def test_a_shared_parameter_counts_once():
    layer = nn.Linear(4, 4)
    assert parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 20


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_bytes_are_those_of_the_file(kind, tmp_path):
    model = builder(kind)(input_shape=(1, 8, 8), classes=10)
    save_weights(model, tmp_path / "model.safetensors")
    assert file_bytes(model) == (tmp_path / "model.safetensors").stat().st_size
    assert file_bytes(model.half()) < 0.6 * (tmp_path / "model.safetensors").stat().st_size
    load_weights(model.float(), tmp_path / "model.safetensors")


def test_bytes_of_shared_and_transposed_tensors(tmp_path):
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.detach().t())
    model = nn.Sequential(layer, layer)
    save_weights(model, tmp_path / "model.safetensors")
    assert file_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("batch", [1, 7])
def test_memory_is_the_most_that_lives_at_once(batch):
    chain = nn.Sequential(nn.Linear(10, 1000), nn.Linear(1000, 20), nn.Linear(20, 500), nn.Linear(500, 10))
    assert peak_memory(chain, torch.zeros(batch, 10)) == 4 * batch * 1020  # the wide layer and what it is turned into
    in_place = nn.Sequential(nn.Linear(10, 50), nn.ReLU(inplace=True), nn.Flatten())
    assert peak_memory(in_place, torch.zeros(batch, 10)) == 4 * batch * 50
    assert peak_memory(nn.Identity(), torch.zeros(batch, 10)) == 0


def test_time_is_the_median_after_the_warm_up():
    model = Slow(0.01)
    found = time_forward(model, torch.zeros(4, 3), warm_up=2, budget=0.2)
    assert 0.01 <= found.lower <= found.seconds <= found.upper
    assert found.samples_per_second == pytest.approx(4 / found.seconds)
    assert model.calls == found.passes + 2
    assert found.passes >= 5
    assert model.modes == {(False, False)}
    assert time_forward(Slow(0.01), torch.zeros(1, 3), warm_up=0, budget=0.001).passes == 5


def test_the_model_is_left_as_it_was():
    model = convolutional()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = cost(model, torch.randn(3, 3, 8, 8), batches=(1, 5), budget=0.01)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [timing.batch for timing in found.timings] == [1, 5]
    assert found.memory[5] == 5 * found.memory[1] > 0
    assert (found.device, found.threads) == ("cpu", 1)
    plain = plain_values(found)
    assert plain["timings"][1]["samples_per_second"] > 0
    assert plain["memory"].keys() == {"1", "5"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cost(nn.Linear(3, 2), torch.zeros(0, 3)), "inputs: found shape (0, 3)"),
        (lambda: cost(nn.Linear(3, 2), torch.zeros(1, 3), batches=(0,)), "batches: found 0"),
        (lambda: time_forward(nn.Linear(3, 2), torch.zeros(1, 3), budget=0), "budget: found 0"),
    ],
)
def test_a_mistake_is_one_line(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)


@pytest.mark.gpu
def test_on_an_accelerator():
    model = convolutional().cuda()
    found = cost(model, torch.randn(3, 3, 8, 8, device="cuda"), batches=(1, 256), budget=0.2)
    assert found.memory[256] >= 256 * 8 * 64 * 4
    assert found.device == torch.cuda.get_device_name()


def test_a_model_that_takes_keywords_costs_as_much_as_its_tensors_say():
    model = builder("transformer")((8,), 3, vocabulary=20, layers=1, width=8, heads=2)
    inputs = {"input_ids": torch.zeros(2, 6, dtype=torch.int64), "attention_mask": torch.ones(2, 6)}
    linear = 2 * 2 * 6 * (4 * 8 * 8 + 2 * 8 * 32)  # queries, keys, values, output, and the two layers after them
    attention, head = 2 * 2 * 2 * 6 * 6 * 8, 2 * 2 * (8 * 8 + 8 * 3)
    assert flops(model, inputs) == linear + attention + head
    found = cost(model, inputs, batches=(1, 4), budget=0.01)
    assert [timing.batch for timing in found.timings] == [1, 4]
    assert found.flops == flops(model, inputs) // 2
    assert found.memory[4] > found.memory[1] > 6 * 8 * 4
    for wrong in ({}, {**inputs, "attention_mask": torch.ones(3, 6)}, {"input_ids": torch.zeros(0, 6)}):
        with pytest.raises(InputError, match=r"^inputs: found"):
            cost(model, wrong)
