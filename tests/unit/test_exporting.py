"""Graphs of networks: every family of the package in every format that is a graph, with free axes that are free."""

from importlib.util import find_spec

import pytest
import torch

import limbeck as lb
from limbeck import models
from limbeck.errors import ExportError
from limbeck.exporting import (
    ONNX,
    PROGRAM,
    Interface,
    graph_of,
    read_onnx,
    read_program,
    write_onnx,
    write_program,
)
from limbeck.outputs import run_model
from small_families import family, inputs_of

QUICK = {"mlp", "two_tower", "lstm_lm"}
UNROLLED = "seq2seq_lstm"  # by torch.export, over one length
ELSEWHERE = {"config": "transformers", "pretrained": "transformers", "timm": "timm"}
NAMES = [name for name in models.names() if name not in ELSEWHERE or find_spec(ELSEWHERE[name])]
CONVOLUTIONS = (
    "cnn",
    "fcn",
    "mobilenet_v2",
    "resnet",
    "resnet_imagenet",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg",
    "wrn",
)
FORMATS = {"torch-export": read_program, "onnx": read_onnx}


def written(graph, to, folder):
    if to == "onnx":
        write_onnx(graph, folder, {"classes": ["a", "b"]})
    else:
        write_program(graph, folder)
    return FORMATS[to](folder, Interface.of(graph.interface.as_dict()))


def spread(network, model, inputs):
    with torch.no_grad():
        ours, theirs = (run_model(each, inputs).logits for each in (model, network))
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / (ours.max() - ours.min()))


@pytest.mark.miniature(1)
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_family_is_a_graph_that_answers_alike_at_other_sizes(name, to, tmp_path):
    model = family(name).eval()
    if (name, to) == (UNROLLED, "torch-export"):
        with pytest.raises(ExportError, match="a recurrent layer over texts of any length"):
            written(graph_of(model, inputs_of(name, 3)), to, tmp_path)
        return
    network = written(graph_of(model, inputs_of(name, 3)), to, tmp_path)
    for count, length in ((1, 1), (7, 5), (2, 9)):
        assert spread(network, model, inputs_of(name, count, length)) < 1e-4, (count, length)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ONNX if to == "onnx" else PROGRAM]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_sizes_are_free_in_every_family_of_convolutions(name, tmp_path):
    found = lb.export(family(name).eval(), inputs_of(name, 9), tmp_path / "net", to="onnx")
    assert (found.image_sizes, found.parity.sizes) == ("free", ((8, 8), (24, 32), (32, 32)))
    assert found.parity.largest < 1e-5


def test_memory_that_ran_out_inside_the_exporter_is_said_to_be_memory(monkeypatch, tmp_path):
    def export(*_, **__):
        try:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")
        except RuntimeError as error:
            raise ValueError("step 3/3 of the exporter") from error

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        write_onnx(graph_of(torch.nn.Linear(3, 2).eval(), torch.randn(4, 3)), tmp_path, {})
