"""Recurrent layers in files of ONNX answer texts of any length, packed or not, as torch does."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import limbeck as lb
from limbeck.errors import ExportError
from limbeck.exporting import (
    ONNX,
    PROGRAM,
    graph_of,
    quantize_file,
    read_onnx,
    read_program,
    recurrent,
    write_onnx,
    write_program,
)
from limbeck.generation import greedy
from small_families import family, inputs_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
WORDS, WIDTH = 30, 5


class Reader(nn.Module):
    """Classifies a text by a recurrent layer's outputs and last states."""

    def __init__(self, cell, *, packed=False, started=False, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cell = nn.Embedding(WORDS, 4), cell(4, WIDTH, **settings)
        self.packed, self.started = packed, started
        states = self.cell.num_layers * (1 + self.cell.bidirectional)
        self.first = nn.Parameter(torch.randn(2, states, 1, WIDTH))
        self.head = nn.Linear(WIDTH * (states + 1 + self.cell.bidirectional), 3)

    def forward(self, input_ids, attention_mask):
        given = self.table(input_ids) * attention_mask[..., None]
        hx = None
        if self.started:
            hx = tuple(self.first.expand(-1, -1, input_ids.shape[0], -1).contiguous())
            hx = hx if isinstance(self.cell, nn.LSTM) else hx[0]
        along = 1 if self.cell.batch_first else 0
        given = given if along else given.transpose(0, 1)
        if self.packed:
            lengths = attention_mask.sum(1).cpu()
            given = pack_padded_sequence(given, lengths, batch_first=bool(along), enforce_sorted=False)
        outputs, states = self.cell(input=given, hx=hx)
        if self.packed:
            outputs = pad_packed_sequence(outputs, batch_first=bool(along), padding_value=-3.0)[0]
        ends = states[0] + states[1] if isinstance(states, tuple) else states
        return self.head(torch.cat([outputs.amax(along), *ends], -1))


def texts(count, length, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (count, length), generator=draw)
    lengths = torch.randint(1, length + 1, (count,), generator=draw)
    lengths[count // 2] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def answered(model, folder, inputs):
    """Write a model for some inputs and return what answers others."""
    graph = graph_of(model.eval(), inputs)
    write_onnx(graph, folder, {})
    return read_onnx(folder, graph.interface), graph.interface


def alike(network, model, inputs):
    with torch.no_grad():
        expected = model.double()(**inputs)
    model.float()
    torch.testing.assert_close(network(inputs).double(), expected, rtol=1e-5, atol=1e-6)


KINDS = [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
FORMS = [
    {"num_layers": 2, "bidirectional": True, "bias": False, "packed": True, "started": True},
    {"batch_first": True},
    {"bidirectional": True, "batch_first": True, "packed": True},
]


@pytest.mark.miniature(1)
@pytest.mark.parametrize("form", FORMS, ids=["deep", "plain", "packed"])
@pytest.mark.parametrize(("cell", "settings"), KINDS, ids=["lstm", "gru", "tanh", "relu"])
def test_a_layer_answers_as_torch_does_at_any_length(tmp_path, cell, settings, form):
    model = Reader(cell, **settings, **form)
    network, _ = answered(model, tmp_path, texts(3, 4))
    for count, length in ((1, 1), (2, 9), (7, 5), (3, 4)):
        alike(network, model, texts(count, length, seed=count))
    used = [node for node in onnx.load(tmp_path / ONNX).graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
    assert len(used) == model.cell.num_layers


def test_weights_lie_in_the_file_as_they_are_used_and_become_8_bit(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "WIDTH", 32)
    model = Reader(nn.LSTM, bidirectional=True, batch_first=True)
    _, interface = answered(model, tmp_path, texts(3, 4))
    graph = onnx.load(tmp_path / ONNX).graph
    held = {each.name: list(each.dims) for each in graph.initializer}
    (layer,) = [node for node in graph.node if node.op_type == "LSTM"]
    assert [held[name] for name in layer.input[1:4]] == [[2, 4 * WIDTH, 4], [2, 4 * WIDTH, WIDTH], [2, 8 * WIDTH]]
    assert sum(torch.tensor(each).prod() for each in held.values()) < 1.1 * sum(p.numel() for p in model.parameters())
    before = (tmp_path / ONNX).stat().st_size
    quantize_file(tmp_path)
    assert (tmp_path / ONNX).stat().st_size < before
    network, inputs = read_onnx(tmp_path, interface), texts(7, 9)
    torch.testing.assert_close(network(inputs), model(**inputs), rtol=0.1, atol=0.05)
    assert not torch.equal(network(inputs), model(**inputs))


def test_torch_is_as_it_was_afterwards_also_after_an_error():
    before = [cell.forward for cell in (nn.LSTM, nn.GRU, nn.RNN)]
    layer, inputs = nn.LSTM(3, 4), torch.randn(2, 5, 3)
    expected = layer(inputs)[0]
    with recurrent.recurrent_operations():
        assert nn.LSTM.forward is not before[0]
        with ThreadPoolExecutor(1) as pool:  # other threads may train meanwhile
            assert torch.equal(pool.submit(layer, inputs).result()[0], expected)
    with pytest.raises(ZeroDivisionError), recurrent.recurrent_operations():
        raise ZeroDivisionError
    assert [cell.forward for cell in (nn.LSTM, nn.GRU, nn.RNN)] == before


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_which_onnx_has_not_is_refused(tmp_path):
    class Projected(Reader):
        def __init__(self):
            super().__init__(nn.GRU)
            self.cell = nn.LSTM(4, WIDTH, proj_size=2, batch_first=True)
            self.head = nn.Linear(2, 3)

        def forward(self, input_ids, attention_mask):
            return self.head(self.cell(self.table(input_ids))[0].amax(1))

    with pytest.raises(ExportError, match="found an LSTM with proj_size, which ONNX has not"):
        answered(Projected(), tmp_path, texts(3, 4))


@pytest.mark.thorough
def test_token_ids_alone_are_asked_at_other_lengths_too(tmp_path):
    class Alone(Reader):
        def forward(self, ids):
            return super().forward(ids, torch.ones_like(ids))

    found = lb.export(
        Alone(nn.GRU, bidirectional=True).eval(), torch.randint(WORDS, (9, 6)), tmp_path / "net", to="onnx"
    )
    assert found.parity.lengths == (1, 3, 6)


@pytest.mark.thorough
def test_a_recurrent_layer_is_no_program_of_any_length_and_the_line_names_onnx(tmp_path):
    with pytest.raises(ExportError, match=r"found a recurrent layer over texts of any length.*use --to onnx"):
        write_program(graph_of(Reader(nn.GRU).eval(), texts(3, 4)), tmp_path)


def test_an_encoder_and_decoder_has_two_lengths_and_writes_what_it_wrote(tmp_path):
    model, inputs = family("seq2seq_lstm").eval(), inputs_of("seq2seq_lstm", 5)
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :3].contiguous()
    network, interface = answered(model, tmp_path, inputs)
    assert [port.shape for port in interface.inputs] == [("batch", "length")] * 2 + [("batch", "decoder_length")]
    assert interface.outputs[0].shape[:2] == ("batch", "decoder_length")
    expected, found = (greedy(each, inputs, length=8, ends=[1]) for each in (model, network))
    assert torch.equal(found.tokens, expected.tokens)
    ids = {name: each for name, each in inputs.items() if name != "attention_mask"}
    torch.testing.assert_close(network(ids), model(**ids), rtol=1e-5, atol=1e-6)  # all tokens are real


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_no_path_of_the_machine_and_no_sample_is_in_a_file(tmp_path, to):
    model, sample = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.tensor([[0.1234567, 7, 9]])
    graph = graph_of(model, sample.repeat(3, 1))
    if to == "onnx":
        write_onnx(graph, tmp_path, {})
        held = [(tmp_path / ONNX).read_bytes()]
        assert len(held[0]) < 2000
    else:
        write_program(graph, tmp_path)
        with zipfile.ZipFile(tmp_path / PROGRAM) as archive:
            held = [archive.read(name) for name in archive.namelist()]
        assert torch.equal(read_program(tmp_path, graph.interface)(sample), model(sample))
    for content in held:
        assert b".py" not in content
        assert sample.numpy().tobytes() not in content
