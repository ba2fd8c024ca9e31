"""Networks as users write them, as ONNX: what is taken answers alike at other lengths, what is not is one line."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import limbeck as lb
from limbeck.errors import ExportError
from limbeck.exporting import ONNX, graph_of, onnx_file, read_onnx, write_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
WORDS, WIDTH = 50, 8


def ids(count, length, seed=0):
    return torch.randint(1, WORDS, (count, length), generator=torch.Generator().manual_seed(seed))


class Text(nn.Module):
    def __init__(self, cell=None):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 3)
        self.cell = cell


class Pair(Text):
    def forward(self, premise, hypothesis):
        one, other = self.table(premise), self.table(hypothesis)
        return self.head((one @ other.transpose(1, 2)).softmax(-1).matmul(other).mean(1))


class Translator(Text):
    def forward(self, src, tgt):
        return self.head(self.cell(self.table(src), self.table(tgt)))


class Lengths(Text):
    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.table(ids), lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = self.cell(packed)
        return self.head(pad_packed_sequence(outputs, batch_first=True, total_length=20)[0].mean(1))


class Masked(Text):
    def forward(self, ids, padding_mask):
        return self.head(self.cell(self.table(ids), src_key_padding_mask=padding_mask).mean(1))


class Weighted(Text):
    def forward(self, ids, mask):
        return self.head((self.table(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class Named(Text):
    def forward(self, inputs, mask):
        return self.head(self.table(inputs).mean(1) * mask[:, :1])


class Stated(Text):
    def forward(self, ids, first):
        outputs, _ = self.cell(self.table(ids), [first[None], first[None]])
        return self.head(outputs.mean(1))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(4 * WIDTH + 6, 3)

    def forward(self, categories, numbers):
        return self.head(torch.cat([self.table(categories).flatten(1), numbers], 1))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs):
        return torch.cond(inputs.sum() > 0, lambda x: self.one(x).relu(), self.other, (inputs,))


def encoder():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def lstm():
    return nn.LSTM(WIDTH, WIDTH, batch_first=True)


def masks(count, length):
    return torch.arange(length) < (length - torch.arange(count) % length)[:, None]


TAKEN = {
    "two texts": (Pair, None, lambda n, length: {"premise": ids(n, length), "hypothesis": ids(n, length + 3, 1)}),
    "two texts of one length": (Pair, None, lambda n, length: {"premise": ids(n, 9), "hypothesis": ids(n, length, 1)}),
    "translator": (
        Translator,
        lambda: nn.Transformer(WIDTH, 2, 1, 1, 16, batch_first=True),
        lambda n, length: {"src": ids(n, length), "tgt": ids(n, length + 2, 1)},
    ),
    "lengths": (
        Lengths,
        lstm,
        lambda n, length: {"ids": ids(n, length), "lengths": masks(n, length).sum(1)},
    ),
    "a mask of truths": (
        Masked,
        encoder,
        lambda n, length: {"ids": ids(n, length), "padding_mask": ~masks(n, length)},
    ),
    "a mask of numbers": (Weighted, None, lambda n, length: {"ids": ids(n, length), "mask": masks(n, length).float()}),
    "an input named inputs": (Named, None, lambda n, length: {"inputs": ids(n, length), "mask": torch.ones(n, 2)}),
    "a list of states": (Stated, lstm, lambda n, length: {"ids": ids(n, length), "first": torch.ones(n, WIDTH)}),
}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("case", TAKEN)
def test_a_network_answers_alike_at_any_length(tmp_path, case):
    make, cell, inputs = TAKEN[case]
    model = (make(cell()) if cell else make()).eval()
    graph = graph_of(model, inputs(5, 9))
    network = read_onnx(tmp_path, write_onnx(graph, tmp_path, {}))
    for count, length in ((5, 9), (1, 1), (7, 4), (2, 13)):
        given = inputs(count, length)
        torch.testing.assert_close(network(given), model(**given), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_other_lengths_are_asked_also_beside_inputs_that_have_none(tmp_path):
    inputs = TAKEN["lengths"][2](20, 12)
    found = lb.export(Lengths(lstm()).eval(), inputs, tmp_path / "net", to="onnx")
    assert found.parity.lengths == (1, 6, 12)

    class Blind(Lengths):
        def forward(self, ids, lengths):
            length = torch.tensor([float(ids.shape[1] > 6)]) if isinstance(ids.shape[1], int) else torch.ones(1)
            return super().forward(ids, lengths) + length

    with pytest.raises(ExportError, match="differ by"):
        lb.export(Blind(lstm()).eval(), inputs, tmp_path / "other", to="onnx")


@pytest.mark.thorough
def test_axes_of_two_sizes_have_two_names(tmp_path):
    model, inputs = Pair().eval(), {"premise": ids(5, 9), "hypothesis": ids(5, 9, 1)}
    lb.export(model, inputs, tmp_path / "net", to="onnx")
    ports = json.loads((tmp_path / "net" / "limbeck.json").read_text())["graph"]["inputs"]
    assert [port["shape"] for port in ports] == [["batch", "length"], ["batch", "hypothesis_length"]]


@pytest.mark.thorough
def test_columns_and_fixed_contexts_stay_as_long_as_they_are(tmp_path):
    model, inputs = Table().eval(), {"categories": ids(9, 4), "numbers": torch.randn(9, 6)}
    graph = graph_of(model, inputs)
    assert [port.shape for port in graph.interface.inputs] == [("batch", 4), ("batch", 6)]
    network = read_onnx(tmp_path, write_onnx(graph, tmp_path, {}))
    torch.testing.assert_close(network(inputs), model(**inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["bag", "branches"])
def test_loops_and_branches_keep_what_they_use_and_say_nothing_of_the_machine(tmp_path, monkeypatch, kind, large):
    if large:
        monkeypatch.setattr(onnx_file, "ONE_FILE", 1)
    if kind == "bag":
        model = nn.Sequential(nn.EmbeddingBag(WORDS, WIDTH, mode="mean"), nn.Linear(WIDTH, 3)).eval()
        examples = [ids(*size) for size in ((20, 9), (3, 4), (1, 1))]
    else:
        model, examples = Branching().eval(), [torch.ones(4, 6), -torch.ones(2, 6)]
    network = read_onnx(tmp_path, write_onnx(graph_of(model, examples[0]), tmp_path, {}))
    for each in examples:
        torch.testing.assert_close(network(each), model(each), rtol=1e-4, atol=1e-5)
    assert b".py" not in (tmp_path / ONNX).read_bytes()


class Second(Text):
    def forward(self, ids, lengths):
        outputs, state = self.cell(self.table(ids))
        return self.head(outputs), state


class Scored(Text):
    def forward(self, ids):
        hidden = self.table(ids)
        return self.head(hidden.mean(1)), hidden.softmax(1)


class Tagger(Text):
    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.table(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.cell(packed)[0], batch_first=True)[0])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "samples", "message"),
    [
        (nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), torch.randn(20, 6), r"answers of shape \(1,\) to one sample"),
        (
            Second(lstm()),
            {"ids": ids(20, 9), "lengths": torch.full((20,), 9)},
            "found 'lengths' of shape .* beside",
        ),
        (Scored(), ids(20, 9), "found a second answer with state_0 of shape .* which is read as a recurrent state"),
        (Tagger(lstm()), {"ids": ids(20, 9), "lengths": torch.full((20,), 5)}, "pass total_length=x.shape"),
        (
            nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), nn.Linear(6, 3)),
            torch.randn(20, 6),
            "No ONNX function found for .*matrix_exp.*; use --to torch-export or safetensors",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, model, samples, message):
    with pytest.raises(ExportError, match=message):
        lb.export(model.eval(), samples, tmp_path / "net", to="onnx")
    assert not (tmp_path / "net").exists()


@pytest.mark.thorough
def test_names_that_a_graph_cannot_have_are_one_line():
    class Any(nn.Linear):
        def forward(self, **given):
            return super().forward(next(iter(given.values())))

    for name in ("logits", "input.ids"):
        with pytest.raises(ExportError, match=f"found an input named '{name}'"):
            graph_of(Any(4, 3).eval(), {name: torch.randn(5, 4)})


@pytest.mark.thorough
def test_an_8_bit_file_names_the_operations_that_it_uses(tmp_path):
    samples = torch.randn(30, 64)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    lb.export(model, samples, tmp_path / "net", to="onnx", quantize="int8", agreement=0.5)
    config = json.loads((tmp_path / "net" / "limbeck.json").read_text())
    used = {each.domain or "ai.onnx" for each in onnx.load(tmp_path / "net" / ONNX).opset_import}
    assert set(config["opset"]) == used
