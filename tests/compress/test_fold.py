"""Folding: the model computes with r numbers a token, gives the same answers, and is smaller by a known count."""

import copy

import pytest
import torch

from limbeck.compress import Fold, LowRank, Quantize, Share, rebuilt, records_of
from limbeck.errors import ModelError
from limbeck.evaluation import flops, parameters
from limbeck.exporting import exported_bytes
from limbeck.models import lstm_lm, mlp
from walk import over

V, H, R = 30, 8, 3


def language_model(*, embedding=H, layers=1, tied=True, seed=0):
    torch.manual_seed(seed)
    model = lstm_lm(
        (5,), V, vocabulary=V, embedding=embedding, hidden=H, layers=layers, tied=tied, projection=tied
    ).double()
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn_like(weights) / 2)
    return model


def low_rank(*, shared, embedding=H, layers=1):
    """A model whose embedding and softmax have one matrix of low rank, tied from the beginning or shared afterwards."""
    model = language_model(embedding=embedding, layers=layers, tied=not shared)
    if shared:
        model = Share(owner="embedding", others=("decoder",)).apply(model)[0]
        paths = ("embedding", "decoder" if embedding == H else "decoder.out")
        return LowRank(rank=R, select=paths).apply(model)[0]
    return LowRank(rank=R, select=("embedding",)).apply(model)[0]


CASES = [(shared, embedding, layers) for shared in (False, True) for embedding, layers in ((H, 1), (6, 1), (H, 2))]


@over("shared, embedding, layers", CASES)
def test_a_folded_model_gives_the_same_answers_and_states(shared, embedding, layers):
    model = low_rank(shared=shared, embedding=embedding, layers=layers)
    before = copy.deepcopy(model.state_dict())
    folded, log = Fold().apply(model)
    first, second = torch.randint(V, (2, 7)), torch.randint(V, (2, 1))
    want, got = model(first), folded(first)
    for _ in range(2):
        torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.state, want.state, rtol=0, atol=1e-10)
        want, got = model(second, want.state), folded(second, got.state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(log.changed) == {"embedding", "layers.0", "decoder"}
    assert set(log.kept) == {f"layers.{number}" for number in range(1, layers)}

    # B (r, d) and W_ih (4H, d) become W_ih·Bᵀ (4H, r) and a projection (r, H), which takes in P (d, H)
    less = R * embedding + 4 * H * (embedding - R) - R * H
    if embedding != H:
        less += embedding * H + embedding - R
    assert parameters(model) - parameters(folded) == less > 0
    assert flops(folded, second) < flops(model, second)


@over("shared, embedding, layers", CASES)
def test_a_folded_model_is_rebuilt_from_its_record_and_trains(shared, embedding, layers):
    model = low_rank(shared=shared, embedding=embedding, layers=layers)
    folded, _ = Fold().apply(model)
    again = rebuilt(language_model(embedding=embedding, layers=layers, tied=not shared, seed=9), records_of(folded))
    again.load_state_dict(folded.state_dict())
    ids = torch.randint(V, (2, 4))
    torch.testing.assert_close(again(ids).logits, folded(ids).logits, rtol=0, atol=0)
    again(ids).logits.square().sum().backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in again.parameters())


def untied_low_rank():
    return LowRank(rank=R, select=("embedding",)).apply(language_model(tied=False))[0]


def untied_low_rank_twice():
    return LowRank(rank=R, select=("embedding", "decoder")).apply(language_model(tied=False))[0]


def low_rank_everywhere():
    return LowRank(rank=2, select=("embedding", "layers.0")).apply(language_model())[0]


@over(
    "model, message",
    [
        (lambda: mlp((3,), 4), "fold: found .*, expected an lstm_lm; apply low_rank"),
        (language_model, "fold: found an embedding TokenEmbedding, expected one of low rank; apply low_rank"),
        (untied_low_rank, "fold: found a softmax Linear with a matrix of its own"),
        (untied_low_rank_twice, "fold: found a softmax LowRankLinear with a matrix of its own"),
        (low_rank_everywhere, "fold: found a first layer LowRankLSTM, expected an LSTM"),
    ],
)
def test_a_model_that_cannot_be_folded_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        Fold().apply(model())


def test_the_files_of_a_keyboards_model_have_the_papers_ratios():
    words, width, rank, biases = 10_000, 200, 79, 10_000 + 8 * 200
    model = lstm_lm((35,), words, vocabulary=words, embedding=width, hidden=width, layers=1, tied=False)
    shared = Share(owner="decoder", others=("embedding",)).apply(model)[0]
    low = LowRank(rank=rank, select=("embedding", "decoder")).apply(shared)[0]
    half = Quantize(to="fp16", skip=()).apply(low)[0]
    folded = Quantize(to="fp16", skip=()).apply(Fold().apply(low)[0])[0]

    lstm = 8 * width**2
    weights = [2 * words * width + lstm, words * width + lstm, rank * (words + width) + lstm]
    mib = [4 * count / 2**20 for count in weights]
    assert mib == pytest.approx([16.48, 8.85, 4.29], abs=0.005)
    assert [mib[0] / mib[2], 2 * mib[0] / mib[2]] == pytest.approx([3.837, 7.67], abs=0.005)  # the paper: 3.835, 7.67

    sizes = [exported_bytes(each) for each in (model, shared, low)]
    for size, count in zip(sizes, weights, strict=True):
        assert 0 <= size - 4 * (count + biases) < 4096  # the file's header
    assert sizes[0] / exported_bytes(half) == pytest.approx(7.6, abs=0.03)
    assert sizes[0] / exported_bytes(folded) > 8.2
