"""Losses on attention scores, hidden states, relations between tokens, and embeddings of sentences."""

import math

import pytest
import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.errors import InputError
from walk import over

N, HEADS, LENGTH, WIDTH = 3, 2, 5, 8
LENGTHS = (5, 3, 1)
MASK = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(seed):
    return drawn(N, HEADS, LENGTH, LENGTH, seed=seed)


def tokens(seed, width=WIDTH):
    return drawn(N, LENGTH, width, seed=seed)


CASES = {
    "attention_mse": (losses.attention_mse, scores(1), scores(2), {}),
    "attention_mse, causal": (losses.attention_mse, scores(1), scores(2), {"causal": True}),
    "attention_mse, centred": (losses.attention_mse, scores(1), scores(2), {"centre": "rows"}),
    "attention_kl": (losses.attention_kl, scores(1), scores(2), {}),
    "attention_kl, causal": (losses.attention_kl, scores(1), scores(2), {"causal": True}),
    "hidden_mse": (losses.hidden_mse, tokens(1), tokens(2), {}),
    "hidden_cosine": (losses.hidden_cosine, tokens(1), tokens(2), {}),
    "relation_kl": (losses.relation_kl, tokens(1), tokens(2, 4), {"heads": 2}),
    "relation_kl, causal": (losses.relation_kl, tokens(1), tokens(2, 4), {"heads": 4, "causal": True}),
}
"""By name the loss, what student and teacher give, and its options."""
every_loss = over("name", CASES)


def reference(name, student, teacher, options):
    """Return the loss by loops over sentences, heads and tokens."""
    causal, values = options.get("causal", False), []
    for n, length in enumerate(LENGTHS):
        if name.startswith("hidden"):
            for s, t in zip(student[n, :length], teacher[n, :length], strict=True):
                error = ((s - t) ** 2).sum() / WIDTH
                values.append(error if name == "hidden_mse" else 1 - (s @ t) / (s.norm() * t.norm()))
            continue
        a, b = student[n], teacher[n]
        if name.startswith("relation"):
            heads = options["heads"]
            a, b = (
                torch.stack([part @ part.T / math.sqrt(part.shape[1]) for part in each.chunk(heads, 1)])
                for each in (a, b)
            )
        for i in range(length):
            keys = range(i + 1 if causal else length)
            rows = [(a[h, i, list(keys)], b[h, i, list(keys)]) for h in range(len(a))]
            if name.startswith("attention_mse"):
                if options.get("centre") == "rows":
                    rows = [(s - s.mean(), t - t.mean()) for s, t in rows]
                values += [sum((s[j] - t[j]) ** 2 for s, t in rows) / len(rows) for j in range(len(keys))]
            else:
                each = [(t.softmax(0) * (t.softmax(0).log() - s.softmax(0).log())).sum() for s, t in rows]
                values.append(sum(each) / len(rows))
    return torch.stack(values).mean()


def padded(feature, length):
    """Return scores or tokens with further places, full of NaN."""
    more = length - feature.shape[-2]
    return F.pad(feature, (0, more, 0, more) if feature.dim() == 4 else (0, 0, 0, more), value=torch.nan)


def value_and_gradient(loss, student, teacher, mask, **options):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, mask=mask, **options)
    value.backward()
    return value.detach(), student.grad


def test_the_example_of_the_specification_is_exact():
    student, teacher = torch.zeros(1, 1, 3, 3).double(), torch.zeros(1, 1, 3, 3).double()
    student[0, 0, :2, :2] = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    teacher[0, 0, :2, :2] = torch.tensor([[1.5, 1.0], [1.0, 1.0]])
    student[0, 0, 2, :] = 5.0
    assert float(losses.attention_mse(student, teacher, torch.tensor([[True, True, False]]))) == pytest.approx(
        0.5625, abs=1e-12
    )


@every_loss
def test_the_value_is_that_of_loops_over_real_tokens(name):
    loss, student, teacher, options = CASES[name]
    found = loss(student, teacher, mask=MASK, **options)
    torch.testing.assert_close(found, reference(name, student, teacher, options), rtol=1e-12, atol=1e-14)
    each = loss(student, teacher, mask=MASK, reduction="none", **options)
    total = loss(student, teacher, mask=MASK, reduction="sum", **options)
    torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=1e-14)
    pairs = [n * (n + 1) // 2 if options.get("causal") else n * n for n in LENGTHS]
    counted = sum(pairs) if name.startswith("attention_mse") else sum(LENGTHS)
    torch.testing.assert_close(found, total / counted, rtol=1e-12, atol=1e-14)
    assert float(loss(teacher, teacher, mask=MASK, **options)) == pytest.approx(0.0, abs=1e-12)


@every_loss
def test_padding_to_any_length_changes_neither_value_nor_gradient_and_its_nan_reaches_nothing(name):
    loss, student, teacher, options = CASES[name]
    value, gradient = value_and_gradient(loss, student, teacher, MASK, **options)
    longer = F.pad(MASK, (0, 4))
    found, other = value_and_gradient(loss, padded(student, 9), padded(teacher, 9), longer, **options)
    torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-14)
    inner = other[:, :, :LENGTH, :LENGTH] if student.dim() == 4 else other[:, :LENGTH]
    torch.testing.assert_close(inner, gradient, rtol=1e-12, atol=1e-14)
    assert int((other != 0).sum()) == int((gradient != 0).sum())


@every_loss
def test_the_gradient_is_that_of_the_value_and_none_reaches_the_teacher(name):
    loss, student, teacher, options = CASES[name]
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: loss(each, teacher, mask=MASK, **options), (student,))
    loss(student, teacher, mask=MASK, **options).backward()
    assert teacher.grad is None


@every_loss
@over("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(name, dtype):
    loss, student, teacher, options = CASES[name]
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(loss, student, teacher, MASK, **options)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float(), mask=MASK, **options))


@every_loss
def test_nothing_that_counts_is_0_with_gradient_0(name):
    loss, student, teacher, options = CASES[name]
    for few, mask in ((N, torch.zeros_like(MASK)), (0, MASK[:0])):
        value, gradient = value_and_gradient(loss, student[:few], teacher[:few], mask, **options)
        assert value == 0
        assert not gradient.any()


def test_gradients_in_closed_form():
    student, teacher = scores(1), scores(2)
    pairs = MASK[:, :, None] & MASK[:, None, :]
    _, gradient = value_and_gradient(losses.attention_mse, student, teacher, MASK)
    expected = torch.where(pairs[:, None], 2 * (student - teacher) / (HEADS * pairs.sum()), 0.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
    _, gradient = value_and_gradient(losses.attention_kl, student, teacher, MASK)
    q, p = (torch.where(pairs[:, None], each, -torch.inf).softmax(-1).nan_to_num() for each in (student, teacher))
    torch.testing.assert_close(gradient, (q - p) / (HEADS * MASK.sum()), rtol=1e-12, atol=1e-15)
    student, teacher = tokens(1), tokens(2)
    _, gradient = value_and_gradient(losses.hidden_mse, student, teacher, MASK)
    expected = torch.where(MASK[..., None], 2 * (student - teacher) / (WIDTH * MASK.sum()), 0.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_centred_rows_ignore_what_the_softmax_ignores():
    student, teacher = scores(1), scores(2)
    moved = student + drawn(N, HEADS, LENGTH, 1, seed=7)
    centred = losses.attention_mse(student, teacher, MASK, centre="rows")
    torch.testing.assert_close(losses.attention_mse(moved, teacher, MASK, centre="rows"), centred)
    assert not torch.isclose(
        losses.attention_mse(moved, teacher, MASK), losses.attention_mse(student, teacher, MASK), rtol=1e-3
    )


def test_scores_are_those_of_the_library_and_grouped_keys_are_repeated():
    query, key, value = (tokens(seed) for seed in (1, 2, 3))
    heads = [each.unflatten(2, (HEADS, -1)).transpose(1, 2) for each in (query, key, value)]
    found = losses.attention_scores(query, key, HEADS)
    expected = F.scaled_dot_product_attention(*heads)
    torch.testing.assert_close(found.softmax(-1) @ heads[2], expected, rtol=1e-12, atol=1e-14)
    grouped = losses.attention_scores(tokens(1), tokens(2)[..., :4], 4)
    repeated = losses.attention_scores(tokens(1), tokens(2)[..., [0, 1, 0, 1, 2, 3, 2, 3]], 4)
    assert torch.equal(grouped, repeated)


def test_margins_and_cosines_are_those_of_loops():
    student, teacher = drawn(5, 4, seed=1), drawn(5, 6, seed=2)
    s, t = (F.cosine_similarity(each[:, None], each[None], dim=2) for each in (student, teacher))
    margins, squares = [], []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        squares += [(s[i, j] - t[i, j]) ** 2 for j in others]
        margins += [((s[i, j] - s[i, k]) - (t[i, j] - t[i, k])) ** 2 for j in others for k in others if j != k]
    torch.testing.assert_close(losses.batch_margins(student, teacher), torch.stack(margins).mean())
    torch.testing.assert_close(losses.cosine_matrix(student, teacher), torch.stack(squares).mean())
    parts = [s[0, 1:], s[1, 1:], t[0, 1:], t[1, 1:]]
    expected = ((parts[0] - parts[1]) - (parts[2] - parts[3])) ** 2
    torch.testing.assert_close(losses.margin_mse(*parts), expected.mean())
    torch.testing.assert_close(losses.margin_mse(*parts, reduction="none"), expected)
    assert float(losses.margin_mse(parts[0], parts[1], parts[0], parts[1])) == 0.0
    own = [each.clone().requires_grad_() for each in parts]
    losses.margin_mse(*own, reduction="sum").backward()
    slope = 2 * ((parts[0] - parts[1]) - (parts[2] - parts[3]))
    torch.testing.assert_close(own[0].grad, slope)
    torch.testing.assert_close(own[1].grad, -slope)
    assert all(each.grad is None or not each.grad.any() for each in own[2:])


def test_principal_axes_are_the_singular_vectors_and_keep_the_most():
    features = drawn(40, 6, seed=4) * torch.tensor([3.0, 1.0, 5.0, 0.5, 2.0, 0.1]) + 7.0
    mean, axes = losses.principal_axes(features, 3)
    centred = features - features.mean(0)
    _, sizes, vectors = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close((axes @ vectors[:3].T).abs(), torch.eye(3).double(), rtol=1e-9, atol=1e-9)
    rest = centred - centred @ axes.T @ axes
    torch.testing.assert_close(rest.square().sum(), sizes[3:].square().sum())
    assert all(float(each[each.abs().argmax()]) > 0 for each in axes)


def test_pooling_heeds_real_tokens_alone():
    hidden = tokens(1)
    expected = torch.stack([each[:length].mean(0) for each, length in zip(hidden, LENGTHS, strict=True)])
    torch.testing.assert_close(losses.pool_tokens(padded(hidden, 9), F.pad(MASK, (0, 4))), expected)
    assert torch.equal(losses.pool_tokens(hidden, MASK, pooling="first"), hidden[:, 0])


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(InputError, match="heads: found 3 for queries of width 8"):
        losses.attention_scores(tokens(1), tokens(2), 3)
    with pytest.raises(InputError, match="heads: found 3"):
        losses.relation_kl(tokens(1), tokens(2), 3)
    with pytest.raises(InputError, match=r"student .*\(3, 2, 5, 5\).*teacher .*\(3, 1, 5, 5\)"):
        losses.attention_mse(scores(1), scores(2)[:, :1])
    with pytest.raises(InputError, match="mask"):
        losses.hidden_mse(tokens(1), tokens(2), MASK[:, :2])
    with pytest.raises(InputError, match="expected tokens"):
        losses.hidden_cosine(tokens(1)[:, 0], tokens(2)[:, 0])
    with pytest.raises(InputError, match="lower the width or give more examples"):
        losses.principal_axes(drawn(3, 8), 4)
    with pytest.raises(InputError, match="centre: found 'other'"):
        losses.attention_mse(scores(1), scores(2), centre="other")
