"""Encoder and decoder of LSTM layers: a plain reference, step by step and at once, padding, and sizes."""

import numpy as np
import pytest
import torch

from limbeck.errors import ModelError
from limbeck.generation import beam_search, greedy, sample
from limbeck.models import seq2seq_lstm


def net(layers=2, width=8, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = seq2seq_lstm((9,), classes=7, vocabulary=6, layers=layers, width=width, dropout=dropout).double()
    for weights in model.parameters():
        weights.data.mul_(8)
    return model.eval()


def pairs(count=4, sources=9, targets=6):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, (count, sources), generator=generator)
    lengths = torch.tensor([sources, 4, 1, 7])[:count]
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(sources) < lengths[:, None]).long(),
        "decoder_input_ids": torch.randint(7, (count, targets), generator=generator),
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(weights, layer, x, h, c):
    """One step of one layer."""
    w, u, b, d = (weights[f"{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def reference(model, source, targets, layers):
    """The logits of one pair, by the formulas, in loops."""
    found = {name: value.detach().numpy() for name, value in model.named_parameters()}
    part = {
        side: {name.removeprefix(f"{side}."): value for name, value in found.items() if name.startswith(side)}
        for side in ("encoder", "decoder")
    }
    width = found["query.weight"].shape[0]
    states = [(np.zeros(width), np.zeros(width)) for _ in range(layers)]

    def run(side, x):
        for layer in range(layers):
            states[layer] = lstm(part[side], layer, x, *states[layer])
            x = states[layer][0]
        return x

    memory = [run("encoder", found["source_embedding.weight"][token]) for token in source]
    logits = []
    for token in targets:
        output = run("decoder", found["target_embedding.weight"][token])
        scores = np.array([output @ found["query.weight"] @ each for each in memory])
        attention = np.exp(scores - scores.max())
        context = sum(weight * each for weight, each in zip(attention / attention.sum(), memory, strict=True))
        pooled = np.tanh(found["pool.0.weight"] @ np.concatenate([context, output]) + found["pool.0.bias"])
        logits.append(found["fc.weight"] @ pooled + found["fc.bias"])
    return np.stack(logits)


@torch.no_grad()
def test_answers_are_those_of_the_formulas():
    for layers in (1, 2):
        model, given = net(layers), pairs()
        logits = model(**given)
        for row, length in enumerate(given["attention_mask"].sum(1).tolist()):
            expected = reference(
                model, given["input_ids"][row, :length].tolist(), given["decoder_input_ids"][row].tolist(), layers
            )
            np.testing.assert_allclose(logits[row].numpy(), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_step_by_step_is_the_whole_sequence():
    model, given = net(), pairs()
    whole = model(**given)
    state = model.start(given["input_ids"], given["attention_mask"])
    for place in range(whole.shape[1]):
        logits, state = model.step(given["decoder_input_ids"][:, place], state)
        torch.testing.assert_close(logits, whole[:, place], rtol=0, atol=1e-10)


def test_padding_changes_neither_loss_nor_gradient():
    model, given = net(), pairs()
    labels = given["decoder_input_ids"].roll(-1, 1)
    found = []
    for more in (0, 5):
        model.zero_grad()
        padded = {name: torch.nn.functional.pad(each, (0, more), value=0) for name, each in given.items()}
        targets = torch.nn.functional.pad(labels, (0, more), value=-100)
        loss = torch.nn.functional.cross_entropy(model(**padded).flatten(0, 1), targets.flatten())
        loss.backward()
        found.append([loss.detach(), *(weights.grad.clone() for weights in model.parameters())])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(long, short, rtol=0, atol=1e-12)
    without = {**given, "attention_mask": None}
    assert not torch.allclose(model(**without)[1], model(**given)[1])


def test_generation_decodes_step_by_step_whatever_the_batch():
    model, given = net(), pairs()
    for generate in (greedy, sample, lambda *args, **more: beam_search(*args, **more, beam=3, best=2)):
        together = generate(model, given, length=8, ends=[2])
        rows = []
        for row in range(4):
            alone = {name: each[row : row + 1] for name, each in given.items()}
            more = {"index": torch.tensor([row])} if generate is sample else {}
            rows += generate(model, alone, length=8, ends=[2], **more).lists()
        assert together.lists() == rows
    best = together.best()
    with torch.no_grad():
        decoder = torch.cat([given["decoder_input_ids"][:, :1], best.tokens[:, :-1]], 1)
        log_probs = model(**{**given, "decoder_input_ids": decoder}).log_softmax(-1)
    own = log_probs.gather(2, best.tokens[..., None]).squeeze(2) * best.mask
    torch.testing.assert_close(own.sum(1), best.log_probs, rtol=0, atol=1e-10)


def test_sizes_and_mistakes():
    teacher, student = (
        seq2seq_lstm((60,), 64, 64, layers=layers, width=width) for layers, width in ((2, 256), (1, 64))
    )
    assert [sum(each.numel() for each in model.parameters()) for model in (teacher, student)] == [2_072_896, 70_784]
    model, given = net(), pairs()
    with pytest.raises(ModelError, match="attention_mask has padding before a token"):
        model(**{**given, "attention_mask": given["attention_mask"].flip(1)})
    with pytest.raises(ModelError, match="found no decoder_input_ids"):
        model(given["input_ids"])
    with pytest.raises(ModelError, match=r"kind: seq2seq_lstm takes the token ids .* shape \(3, 8, 8\) with 0 tokens"):
        seq2seq_lstm((3, 8, 8), 5)
