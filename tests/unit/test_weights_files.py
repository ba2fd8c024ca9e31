"""Files of weights and results: what does not fit or is damaged is named, and no pickle is ever run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import CheckpointError, ModelError
from limbeck.evaluation import file_bytes, parameters
from limbeck.records import sealed
from limbeck.teachers.model import state_digest
from limbeck.training import checkpoints as kept
from limbeck.training import fit, load_weights, save_weights
from small_checkpoints import DAMAGE, flip, network, train, truncate, written
from walk import over

# -------------------------------------------------------------------------------------------------------------- weights


def test_weights_come_back_with_their_buffers(tmp_path):
    model = network(nn.BatchNorm1d(5))
    model(torch.randn(8, 3))
    save_weights(model, tmp_path / "deep" / "model.safetensors")
    again = network(nn.BatchNorm1d(5))
    load_weights(again, tmp_path / "deep" / "model.safetensors")
    assert state_digest(again) == state_digest(model)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.safetensors"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs):
        return self.head(self.embedding(inputs.long().clamp(0, 6)).mean(1))


def test_tied_weights_come_back_tied(tmp_path):
    model, again = Tied(), Tied()
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(again, tmp_path / "tied.safetensors")
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again.head.weight, model.head.weight)


def test_a_tied_tensor_counts_once_also_where_two_parameters_share_its_memory():
    model = Tied()
    model.head.weight = nn.Parameter(model.embedding.weight.data)
    assert model.head.weight is not model.embedding.weight
    assert parameters(model) == parameters(Tied()) == 35
    assert file_bytes(model) == file_bytes(Tied())


def test_a_tied_tensor_is_written_once_and_fills_a_model_that_is_not_tied(tmp_path):
    model, path = Tied(), tmp_path / "tied.safetensors"
    save_weights(model, path)
    assert list(load_file(path)) == ["embedding.weight"]
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(7, 5))
    load_weights(untied, path)
    assert torch.equal(untied.head.weight, model.embedding.weight)
    written = {path.read_bytes() for _ in range(5) if save_weights(model, path) is None}
    assert len(written) == 1


@pytest.mark.parametrize("left_out", ["embedding.weight", "head.weight", None])
def test_a_file_may_leave_out_names_of_a_tied_tensor_but_not_contradict_the_tie(tmp_path, left_out):
    model, again, path = Tied(), Tied(), tmp_path / "tied.safetensors"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != left_out}
    save_file(state, path)
    load_weights(again, path)
    assert torch.equal(again.head.weight, model.head.weight)
    if left_out is None:
        save_file({**state, "head.weight": state["head.weight"] + 1}, path)
        with pytest.raises(
            CheckpointError, match=r"'embedding.weight' and 'head.weight' differ there and are one tensor"
        ):
            load_weights(again, path)
        assert torch.equal(again.head.weight, model.head.weight)


WRAPPERS = {
    "plain": lambda net: net,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "parallel": nn.DataParallel,
    "compiled and parallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
}


@over("source", [*WRAPPERS, "distiller"])
@over("target", list(WRAPPERS))
def test_names_that_differ_by_a_wrapper_alone_are_one_name(tmp_path, source, target):
    saved, filled, path = network(nn.BatchNorm1d(5)), network(nn.BatchNorm1d(5)), tmp_path / "model.safetensors"
    wrapped = Distiller(saved, None, methods.hard()) if source == "distiller" else WRAPPERS[source](saved)
    save_weights(wrapped, path)
    load_weights(WRAPPERS[target](filled), path)
    assert state_digest(filled) == state_digest(saved)


def test_a_module_that_is_called_like_a_wrapper_keeps_its_name(tmp_path):
    def net():
        return nn.ModuleDict({"module": nn.Linear(3, 3), "other": nn.ModuleDict({"module": nn.Linear(3, 3)})})

    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.module = nn.Parameter(torch.randn(3)), nn.Module()
            self.module.weight = nn.Parameter(torch.randn(3))

    for make in (net, Clash):
        saved, filled, path = make(), make(), tmp_path / "model.safetensors"
        save_weights(saved, path)
        load_weights(filled, path)
        assert state_digest(filled) == state_digest(saved)


def test_a_file_with_more_than_a_distillers_terms_beside_the_student_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"student.{name}": each for name, each in network().state_dict().items()} | {"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="is of another architecture"):
        load_weights(network(), path)


def test_training_tied_weights_goes_on_bit_for_bit(tmp_path):
    samples = TensorSet.of(torch.rand(24, 3) * 7, torch.arange(24) % 7)
    settings = {"epochs": 2, "batch_size": 8, "averaging": 0.9, "keep": "best", "checkpoint_seconds": 0.0}

    def run(folder, watch=lambda look: None):
        torch.manual_seed(0)
        return fit(Distiller(Tied(), None, methods.hard()), samples, samples, folder=folder, watch=watch, **settings)

    def stop(look):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop)
    checkpoint = max((tmp_path / "broken" / "checkpoints").glob("step-*/tensors.safetensors"))
    names = {name for name in load_file(checkpoint) if name.startswith(("model.", "average.", "best."))}
    assert names == {"model.student.embedding.weight", "average.embedding.weight"}
    again = run(tmp_path / "broken")
    assert again.student.head.weight is again.student.embedding.weight
    assert state_digest(again.student) == state_digest(whole.student)


def other_files(folder):
    model = network()
    save_weights(model, folder / "good.safetensors")
    tensors = load_file(folder / "good.safetensors")
    save_file({**tensors, "1.bias": torch.zeros(5)}, folder / "shape.safetensors")
    save_file({("0.weights" if k == "0.weight" else k): v for k, v in tensors.items()}, folder / "name.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "1.bias"}, folder / "less.safetensors")
    save_file({**tensors, "2.bias": torch.zeros(5)}, folder / "more.safetensors")
    (folder / "short.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-5])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    torch.save(model.state_dict(), folder / "model.onnx")


@over(
    ("file", "says"),
    [
        ("gone.safetensors", "there is no file"),
        ("folder.safetensors", "holds no file of weights; expected one that ends in .safetensors, .pt"),
        ("model.onnx", "is no file of weights; expected a name that ends in one of: .safetensors, .pt"),
        ("shape.safetensors", "of another architecture: '1.bias' is (5,) there, (4,) in the model"),
        ("name.safetensors", "of another architecture: it has no '0.weight'; did you mean '0.weights'?"),
        ("less.safetensors", "of another architecture: it has no '1.bias'"),
        ("more.safetensors", "of another architecture: the model has no '2.bias'; did you mean"),
        ("short.safetensors", "is not a readable safetensors file"),
        ("empty.safetensors", "is not a readable safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_is_as_it_was(tmp_path, file, says):
    other_files(tmp_path)
    model = network()
    before = state_digest(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / file)
    assert says in str(caught.value)
    assert str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_digest(model) == before


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@over("name", ["model.pt", "model.bin", "model.pkl", "model.safetensors", "model"])
def test_no_pickle_is_ever_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError):
        load_weights(network(), tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_no_pickle_in_a_checkpoint_is_ever_run(tmp_path, file):
    (path,) = written(tmp_path, 1)
    (path / file).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match="is damaged"):
        kept.read(path)
    assert not (tmp_path / "sprung").exists()


# -------------------------------------------------------------------------------------------------- a finished training


@over("damage", ["truncated", "empty", "a list", "not text", "missing keys"])
def test_a_damaged_result_is_named(tmp_path, damage):
    train(tmp_path)
    if damage == "missing keys":
        (tmp_path / "result.json").write_text("{}")
    else:
        DAMAGE[damage](tmp_path / "result.json")
    if damage == "truncated":
        truncate(tmp_path / "result.json")  # the last character is a newline
    with pytest.raises(CheckpointError, match=r"result\.json' is damaged .*delete it to start again"):
        train(tmp_path)


@pytest.mark.miniature(2)
@pytest.mark.parametrize("damage", ["truncated", "middle bit", "last bit", "missing"])
def test_damaged_weights_of_a_finished_training_are_named(tmp_path, damage):
    train(tmp_path)
    DAMAGE[damage](tmp_path / "student.safetensors")
    with pytest.raises(CheckpointError, match=r"student\.safetensors'"):
        train(tmp_path)
    (tmp_path / "result.json").unlink()  # as the line says
    assert state_digest(train(tmp_path).student) == state_digest(train(tmp_path / "other").student)


@pytest.mark.parametrize("key", ["sha256", "weights_sha256"])
def test_a_result_without_a_checksum_is_refused(tmp_path, key):
    train(tmp_path)
    ended = json.loads((tmp_path / "result.json").read_text())
    del ended[key]
    (tmp_path / "result.json").write_text(json.dumps(ended if key == "sha256" else sealed(without_seal(ended))))
    with pytest.raises(CheckpointError, match=r"(no checksum|wrong checksum).*; delete"):
        train(tmp_path)


def without_seal(content: dict) -> dict:
    return {key: value for key, value in content.items() if key != "sha256"}


@pytest.mark.thorough
def test_no_bit_of_a_result_can_flip_unnoticed(tmp_path):
    kept.write_sealed(tmp_path / "result.json", {"history": [{"errors": 12, "nll": 0.25}], "none": None, "é": [1e-9]})
    content, path = kept.read_sealed(tmp_path / "result.json"), tmp_path / "flipped.json"
    whole = (tmp_path / "result.json").read_bytes()
    lines = []
    for bit in range(8 * len(whole)):
        path.write_bytes(whole)
        flip(path, bit)
        try:
            found = kept.read_sealed(path)
        except CheckpointError as error:
            lines.append(str(error))
        else:  # a space that became another
            assert found == content
    assert len(lines) > 0.9 * 8 * len(whole)
    assert all(line.startswith(f"'{path}' is damaged (") for line in lines)


def test_a_result_that_says_something_else_is_refused(tmp_path):
    train(tmp_path)
    path = tmp_path / "result.json"
    text = path.read_text()
    path.write_text(text.replace('"errors": ', '"errors": 1', 1))
    assert path.read_text() != text
    with pytest.raises(CheckpointError, match=r"result\.json' is damaged \(wrong checksum\); delete it to start again"):
        train(tmp_path)


def test_weights_that_no_file_holds_leave_nothing_behind(tmp_path):
    model = nn.Linear(3, 4)
    model.register_buffer("spectrum", torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ModelError, match="holds no complex numbers"):
        save_weights(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
