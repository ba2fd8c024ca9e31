"""LSTM language models: sizes, tied softmax, carried state, and each kind of dropout."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrize

from limbeck.compress.factorised import LowRankEmbedding
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import flops, parameters
from limbeck.models import lstm_lm
from limbeck.models.layers import LockedDropout, RowDropout
from limbeck.models.layers.locked_dropout import call_with_dropped_weights
from limbeck.models.lstm_lm import LstmDropout
from limbeck.outputs import Tap, run_model
from limbeck.teachers.class_vectors import class_vectors, weights_of
from walk import over

ALL = LstmDropout(embedding_rows=0.1, input=0.4, between=0.25, output=0.4, weight_drop=0.5)


def model_of(vocabulary=11, seed=0, dtype=torch.float64, **keys):
    torch.manual_seed(seed)
    return lstm_lm((8,), vocabulary, vocabulary, **{"embedding": 4, "hidden": 6, "layers": 3} | keys).to(dtype)


def ids_of(lanes=3, length=8, vocabulary=11):
    return torch.randint(vocabulary, (lanes, length), generator=torch.Generator().manual_seed(1))


@over(
    ("keys", "millions"),
    [
        ({"embedding": 400, "hidden": 1150, "layers": 3}, 24.22),
        ({"embedding": 300, "hidden": 600, "layers": 3}, 9.14),
        ({"embedding": 400, "hidden": 400, "layers": 2}, 6.58),
        ({"embedding": 200, "hidden": 200, "layers": 2}, 2.65),
        # two matrices, and one LSTM layer without its biases: 2·V·d + 8d² is 14.88 for d = 600 and V = 10,000
        ({"embedding": 600, "hidden": 600, "layers": 1, "tied": False}, 14.89),
        ({"embedding": 600, "hidden": 600, "layers": 1, "projection": True}, 8.90),
    ],
)
def test_the_published_sizes(keys, millions):
    with torch.device("meta"):
        model = lstm_lm((35,), 10_000, 10_000, **keys)
    assert round(parameters(model) / 1e6, 2) == pytest.approx(millions, abs=0.011)


def test_the_last_layer_has_the_size_of_the_shared_matrix_or_a_projection_to_it():
    sizes = {
        "tied": [(4, 6), (6, 6), (6, 4)],
        "projected": [(4, 6), (6, 6), (6, 6)],
        "untied": [(4, 6), (6, 6), (6, 6)],
    }
    found = {
        "tied": model_of(),
        "projected": model_of(projection=True),
        "untied": model_of(tied=False),
    }
    for name, model in found.items():
        assert [(layer.input_size, layer.hidden_size) for layer in model.layers] == sizes[name]
    assert found["tied"].decoder.projection is None
    assert found["projected"].decoder.projection.weight.shape == (4, 6)
    assert model_of(hidden=4, projection=True).decoder.projection is None
    owners = [name for name, each in found["tied"].named_parameters() if each.shape == (11, 4)]
    assert owners == ["embedding.weight"]


def test_operations_are_counted_in_recurrent_layers_as_well():
    ids, products = ids_of(3, 8), 4 * 6 * (4 + 6) + 4 * 6 * (6 + 6) + 4 * 4 * (6 + 4) + 4 * 11
    for dtype in (torch.float32, torch.float64):  # in float32 a fused kernel may compute them
        assert flops(model_of(dtype=dtype), ids) == 2 * ids.numel() * products


def test_initial_weights():
    for model in (model_of(500), model_of(500, tied=False)):
        weight = model.embedding.weight
        assert weight.abs().max() <= 0.1
        assert weight.abs().max() > 0.099
        assert not model.decoder.bias.any()


def test_the_logits_are_those_of_the_formula():
    ids = ids_of()
    for keys in ({}, {"projection": True}, {"tied": False}):
        model = model_of(**keys).eval()
        nn.init.normal_(model.decoder.bias)
        hidden = model.embedding.weight[ids]
        for layer in model.layers:
            hidden, _ = layer(hidden)
        if keys.get("projection"):
            hidden = hidden @ model.decoder.projection.weight.T + model.decoder.projection.bias
        matrix = model.decoder.weight if keys.get("tied") is False else model.embedding.weight
        expected = hidden @ matrix.T + model.decoder.bias
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-12, atol=1e-12)
        found = weights_of(model, {"rows": "last_linear.weight", "bias": "last_linear.bias"}, 11)
        assert torch.equal(found["rows"], matrix)
        assert torch.equal(found["bias"], model.decoder.bias)
        assert torch.equal(class_vectors(model, 11), matrix)


def test_an_embedding_of_two_matrices_serves_look_up_and_softmax_at_full_rank_exactly():
    model, ids = model_of(projection=True).eval(), ids_of()
    expected = model(ids).logits
    u, s, v = torch.linalg.svd(model.embedding.weight.detach(), full_matrices=False)
    other = copy.deepcopy(model)
    other.embedding = LowRankEmbedding(11, 4, 4).double()
    with torch.no_grad():
        other.embedding.a.weight.copy_(u * s.sqrt())
        other.embedding.b.weight.copy_(s.sqrt()[:, None] * v)
    torch.testing.assert_close(other(ids).logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(class_vectors(other, 11), model.embedding.weight, rtol=1e-10, atol=1e-10)


def test_two_chunks_with_carried_state_are_one_and_a_fresh_lane_is_a_zero_state():
    model, ids = model_of(dropout=ALL).eval(), ids_of(3, 70)
    with torch.no_grad():
        whole = model(ids)
        first = model(ids[:, :35])
        second = model(ids[:, 35:], first.state)
        fresh = tuple(
            (h.index_fill(1, torch.tensor([1]), 0), c.index_fill(1, torch.tensor([1]), 0)) for h, c in first.state
        )
        third = model(ids[:, 35:], fresh)
        alone = model(ids[:, 35:])
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(third.logits[1], alone.logits[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(third.logits[0], second.logits[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(second.logits, alone.logits)
    for layer, (h, c) in zip(model.layers, second.state, strict=True):
        assert h.shape == c.shape == (1, 3, layer.hidden_size)


def test_a_locked_mask_is_the_same_at_all_steps_and_another_for_each_sample():
    torch.manual_seed(0)
    ones = torch.ones(64, 9, 32)
    dropped = LockedDropout(0.4)(ones)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(dropped[0], dropped[1])
    assert LockedDropout(0.4).eval()(ones) is ones


def test_rows_of_the_embedding_are_dropped_whole_and_the_others_scaled():
    torch.manual_seed(0)
    table, ids = torch.randn(300, 5, dtype=torch.float64, requires_grad=True), torch.randint(300, (20, 30))
    drop = RowDropout(0.1, 300)
    dropped = drop(table[ids], ids)
    kept = dropped.abs().sum(-1) > 0
    torch.testing.assert_close(dropped[kept], (table[ids] / 0.9)[kept])
    for token in ids.unique():  # whole rows: a token is dropped wherever it stands, or nowhere
        assert len(kept[ids == token].unique()) == 1
    assert 0.03 < 1 - float(kept.double().mean()) < 0.2
    dropped.sum().backward()
    assert not table.grad[ids[~kept]].any()
    assert drop.eval()(table, ids) is table


def reassigned(way, raw, mask):
    """Return a function of inputs that calls an LSTM with the W_hh `raw`·`mask`, put there in one of three ways."""
    torch.manual_seed(3)
    layer = nn.LSTM(3, 4, batch_first=True).double()
    if way == "functional":
        return lambda inputs: functional_call(layer, {"weight_hh_l0": raw * mask}, (inputs,))[0]
    if way == "attribute":
        del layer.weight_hh_l0

        def call(inputs):
            layer.weight_hh_l0 = raw * mask
            return layer(inputs)[0]

        return call

    class Masked(nn.Module):
        def forward(self, weight):
            return weight * mask

    with torch.no_grad():
        layer.weight_hh_l0.copy_(raw)
    parametrize.register_parametrization(layer, "weight_hh_l0", Masked())
    raw.own = layer.parametrizations.weight_hh_l0.original
    return lambda inputs: layer(inputs)[0]


@over("way", ["attribute", "parametrisation", "functional"])
def test_an_lstm_uses_a_reassigned_matrix(way):
    torch.manual_seed(2)
    raw = nn.Parameter(torch.randn(16, 4, dtype=torch.float64))
    inputs, mask = torch.randn(2, 5, 3, dtype=torch.float64), (torch.rand(16, 4) > 0.5).double() * 2
    dropped, whole = reassigned(way, raw, mask)(inputs), reassigned(way, raw, torch.ones_like(mask))(inputs)
    torch.testing.assert_close(dropped[:, 0], whole[:, 0], rtol=0, atol=1e-15)  # h is 0 there: W_hh has no part in it
    assert (dropped[:, 1:] - whole[:, 1:]).abs().amax((0, 2)).min() > 1e-4
    reassigned(way, raw, mask)(inputs).square().sum().backward()
    gradient = getattr(raw, "own", raw).grad
    assert gradient[mask > 0].any()
    assert not gradient[mask == 0].any()


def test_weight_drop_masks_single_weights_once_a_forward_and_leaves_them_in_place():
    layer = nn.LSTM(3, 4, batch_first=True).double()
    before, inputs = layer.weight_hh_l0, torch.randn(2, 5, 3, dtype=torch.float64)
    torch.manual_seed(4)
    found, _ = call_with_dropped_weights(layer, 0.5, inputs)
    torch.manual_seed(4)
    weight = functional.dropout(layer.weight_hh_l0, 0.5)
    hidden, cell, each = torch.zeros(2, 4).double(), torch.zeros(2, 4).double(), []
    for step in range(5):  # the formula, with one mask
        gates = inputs[:, step] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + hidden @ weight.T + layer.bias_hh_l0
        enter, forget, new, out = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        each.append(hidden)
    torch.testing.assert_close(found, torch.stack(each, 1), rtol=1e-12, atol=1e-12)
    found.sum().backward()
    assert layer.weight_hh_l0 is before
    assert torch.equal(before.grad == 0, weight == 0)
    layer.eval()
    assert torch.equal(call_with_dropped_weights(layer, 0.5, inputs)[0], layer(inputs)[0])


def test_every_share_of_dropout_changes_training_alone():
    ids = ids_of()
    plain = model_of().train()(ids).logits
    for name in ("embedding_rows", "input", "between", "output", "weight_drop"):
        model = model_of(dropout=LstmDropout(**{name: 0.5}))
        assert model.state_dict().keys() == model_of().state_dict().keys()
        assert not torch.allclose(model.train()(ids).logits, plain), name
        torch.testing.assert_close(model.eval()(ids).logits, plain, rtol=1e-12, atol=1e-12)


def test_the_last_layers_output_can_be_read_with_and_without_dropout():
    model, ids = model_of(dropout=LstmDropout(output=0.5)), ids_of()
    taps = {"dropped": "output", "plain": Tap("output", side="input"), "last": "layers.-1"}
    features = run_model(model.train(), ids, taps).features
    assert torch.equal(features["plain"], features["last"])
    kept = features["dropped"] != 0
    torch.testing.assert_close(features["dropped"][kept], 2 * features["plain"][kept])
    assert not kept.all()


def test_what_is_no_language_model_is_refused_in_one_line():
    for keys, error, line in (
        ({"input_shape": (3, 8, 8)}, ModelError, "kind: lstm_lm takes token ids"),
        ({"vocabulary": 0}, ModelError, "kind: lstm_lm takes token ids"),
        ({"vocabulary": 7}, ModelError, "found 7 tokens and 5 classes"),
        ({"layers": 0}, InputError, "layers: found 0"),
        ({"tied": False, "projection": True}, InputError, "projection: needs a tied softmax"),
    ):
        with pytest.raises(error, match=line):
            lstm_lm(**{"input_shape": (8,), "classes": 5, "vocabulary": 5} | keys)
    for share in (-0.1, 1, math.nan):
        with pytest.raises(InputError, match="weight_drop: found"):
            LstmDropout(weight_drop=share)
    with pytest.raises(ModelError, match="expected token ids"):
        run_model(model_of(), torch.zeros(2, 8))
