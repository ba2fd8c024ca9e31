"""Embeddings of 8 bits in an ONNX file: each row has a scale of its own, and a head that shares them reads the same."""

import pytest
import torch
from torch import nn

from limbeck.errors import ExportError
from limbeck.exporting import ONNX, graph_of, onnx_file, quantize_file, read_onnx, write_onnx
from limbeck.exporting import int8 as module

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
V, D = 200, 16
IDS = torch.arange(V).view(8, 25)


class Texts(nn.Module):
    """Looks tokens up; logits are products with the same table or another layer, or distances to the table's rows."""

    def __init__(self, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(V, D, padding_idx=0), head
        with torch.no_grad():
            self.table.weight *= torch.logspace(-3, 3, V)[:, None]  # rows as unlike as those of rare and common tokens
        if head == "untied":
            self.layer = nn.Linear(D, V, bias=False)

    def forward(self, ids):
        found = self.table(ids)
        if self.head == "tied":
            return nn.functional.linear(found / found.norm(dim=-1, keepdim=True).clamp_min(1e-6), self.table.weight)
        if self.head == "distances":
            return (found[..., None, :] - self.table.weight).square().sum(-1)
        return self.layer(found) if self.head == "untied" else found


def written(model, folder, ids=IDS):
    folder.mkdir()
    graph = graph_of(model.eval(), ids, None)
    write_onnx(graph, folder, {"kept": "word"})
    return graph.interface


def tensors(folder):
    found = onnx.load(folder / ONNX).graph.initializer
    return {each.name.rpartition("table.weight")[2]: onnx.numpy_helper.to_array(each) for each in found}


def rounded(weight):
    """Return a table as its rows of 8 bits have it, by a formula in float64 of its own."""
    step = weight.double().abs().amax(1, keepdim=True) / 127
    return torch.where(step > 0, (weight.double() / step.clamp_min(1e-300)).round() * step, 0.0)


def answers(folder, interface, ids=IDS):
    return read_onnx(folder, interface)(ids).double()


def test_rows_are_rounded_to_steps_of_their_own_and_zeros_stay(tmp_path):
    model = Texts()
    interface = written(model, tmp_path / "net")
    before = (tmp_path / "net" / ONNX).stat().st_size
    assert quantize_file(tmp_path / "net") is False
    expected, found = rounded(model.table.weight.detach()), answers(tmp_path / "net", interface)
    torch.testing.assert_close(found, expected[IDS], rtol=1e-6, atol=0)
    assert (found.view(V, D)[0] == 0).all()  # of the padding
    error = (found.view(V, D) - model.table.weight.detach().double()).abs().amax(1)
    step = model.table.weight.detach().double().abs().amax(1) / 127
    assert (error <= step * 0.5001).all()
    assert (tmp_path / "net" / ONNX).stat().st_size < before - 2 * V * D
    assert [each.name for each in (tmp_path / "net").iterdir()] == [ONNX]
    graph = onnx.load(tmp_path / "net" / ONNX).graph
    assert {each.name for each in graph.initializer} <= {name for node in graph.node for name in node.input}
    assert onnx.load(tmp_path / "net" / ONNX).metadata_props[0].value == "word"


def test_a_head_that_shares_a_table_reads_the_rounded_one(tmp_path):
    model = Texts("tied")
    interface = written(model, tmp_path / "net")
    quantize_file(tmp_path / "net")
    kept = tensors(tmp_path / "net")
    assert kept[".rows"].shape == (V, D)
    assert not any(each.dtype == "float32" and each.size >= V * D for each in kept.values())
    expected = rounded(model.table.weight.detach())
    inputs = expected[IDS] / expected[IDS].norm(dim=-1, keepdim=True).clamp_min(1e-6)
    # the inputs of a product are rounded to 255 steps between the least and the greatest number of the batch, of which
    # one is zero: by half a step, and at the ends by as much again
    bound = (inputs.max() - inputs.min()) / 255 * expected.abs().sum(1)
    error = (answers(tmp_path / "net", interface) - inputs @ expected.T).abs()
    assert (error <= bound + 1e-6).all()
    assert (error > bound / 20).any()


@pytest.mark.thorough
def test_another_layer_is_its_own_and_the_table_is_small_all_the_same(tmp_path):
    written(Texts("untied"), tmp_path / "net")
    quantize_file(tmp_path / "net")
    kept = tensors(tmp_path / "net")
    assert sum(each.size for each in kept.values() if each.dtype == "uint8") >= 2 * V * D
    assert not any(each.dtype == "float32" and each.size >= V * D for each in kept.values())


def test_a_table_with_another_use_stays_in_float(tmp_path):
    interface = written(Texts("distances"), tmp_path / "net")
    before = answers(tmp_path / "net", interface)
    with pytest.raises(ExportError, match="becomes smaller in int8; expected linear ones, embeddings, or convol"):
        quantize_file(tmp_path / "net")
    assert torch.equal(answers(tmp_path / "net", interface), before)


@pytest.mark.thorough
@pytest.mark.parametrize("head", [None, "tied", "untied"])
def test_weights_beside_a_file_stay_beside_it(tmp_path, monkeypatch, head):
    model = Texts(head)
    interface = written(model, tmp_path / "one")
    quantize_file(tmp_path / "one")
    for place in (onnx_file, module):
        monkeypatch.setattr(place, "ONE_FILE", 1)
    written(model, tmp_path / "two")
    names = [onnx_file.ONNX, onnx_file.DATA]
    before = [(tmp_path / "two" / name).stat().st_size for name in names]
    quantize_file(tmp_path / "two")
    assert {each.name for each in (tmp_path / "two").iterdir()} == set(names)
    assert sum((tmp_path / "two" / name).stat().st_size for name in names) < sum(before)
    assert (tmp_path / "two" / names[1]).stat().st_size < before[1] / 2
    assert torch.equal(answers(tmp_path / "two", interface), answers(tmp_path / "one", interface))
