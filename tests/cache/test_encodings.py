"""What the encodings keep: sizes, exact sums, and draws whose expected gradient is that of the whole distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.cache import DenseEncoding, QuantizedEncoding, SampledEncoding, TopKEncoding, encoding_of
from limbeck.cache.encodings import RowNames, drawn
from limbeck.cache.layout import SIZES, Layout, packed, unpacked
from limbeck.errors import InputError
from limbeck.outputs import Members, Outputs


def names_of(rows, view=1, seed=0, index=None):
    index = torch.arange(rows) if index is None else index
    return RowNames(torch.full((rows,), view), index, torch.zeros(rows, dtype=torch.int64), seed)


def stride_of(encoding, classes):
    return Layout.of(encoding.fields(classes, (), 0)).stride


def test_the_sizes_that_are_promised():
    assert stride_of(TopKEncoding(k=16, temperatures=(1.0, 4.0)), 100) <= 0.15 * 4 * 100
    assert stride_of(SampledEncoding(), 128_256) <= 40
    assert [stride_of(QuantizedEncoding(bits=bits), 100) for bits in (3, 4, 8)] == [42, 54, 104]
    assert [stride_of(DenseEncoding(dtype), 100) for dtype in ("fp32", "fp16", "bf16")] == [400, 200, 200]


@pytest.mark.parametrize("kind", SIZES)
def test_numbers_come_back_from_their_bytes(kind):
    draw = np.random.default_rng(0)
    if kind.startswith(("float", "bfloat")):
        values = draw.standard_normal((50, 3)).astype(np.float32)
        back = unpacked(packed(values, kind).reshape(50, -1), kind)
        expected = torch.from_numpy(values).to(
            {"float32": torch.float32, "float16": torch.float16}.get(kind, torch.bfloat16)
        )
        assert np.array_equal(back, expected.float().numpy())
        return
    values = draw.integers(0, 2 ** (8 * SIZES[kind]), (50, 3))
    assert np.array_equal(unpacked(packed(values, kind).reshape(50, -1), kind), values)


def test_bfloat16_rounds_as_torch_does_at_the_edges():
    values = np.array([0.0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-40, np.nan], np.float32)[None]
    back = unpacked(packed(values, "bfloat16").reshape(1, -1), "bfloat16")
    assert np.array_equal(back, torch.from_numpy(values).bfloat16().float().numpy(), equal_nan=True)


def test_three_byte_numbers_are_read_where_they_end_the_row_too():
    for fields in ([("ids", "uint24", (4,))], [("ids", "uint24", (4,)), ("entropy", "float16", ())]):
        layout, ids = Layout.of(fields), np.random.default_rng(0).integers(0, 2**24, (9, 4))
        rows = layout.pack({"ids": ids, "entropy": np.zeros(9)})
        assert np.array_equal(layout.unpack(rows, "ids"), ids)


def stored(encoding, outputs, classes, shape=(), members=0):
    """Return what a store's bytes hold of answers, as values that the encoding decodes."""
    layout = Layout.of(encoding.fields(classes, shape, members))
    found = encoding.encode(outputs, names_of(len(outputs.logits)))
    rows = layout.pack({name: value.numpy() for name, value in found.items()})
    return {field.name: torch.from_numpy(layout.unpack(rows, field.name)) for field in layout.fields}


@settings(deadline=None, max_examples=100)
@given(
    bits=st.integers(2, 8),
    classes=st.integers(1, 37),
    shape=st.sampled_from([(), (3,), (2, 2)]),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 40.0, 3e4]),
    centre=st.sampled_from([0.0, -7.0, 1e4]),
    seed=st.integers(0, 10**6),
)
def test_rounded_logits_are_off_by_half_a_step_at_most(bits, classes, shape, scale, centre, seed):
    draws = torch.rand(4, *shape, classes, generator=torch.Generator().manual_seed(seed))
    logits = scale * (2 * draws - 1) + centre
    encoding = QuantizedEncoding(bits=bits)
    values = stored(encoding, Outputs(logits), classes, shape)
    found = encoding.decode(values, classes, None, 1).logits
    assert found.shape == logits.shape
    least, largest = (logits.double().amin(-1, True), logits.double().amax(-1, True))
    half = (largest - least) / (2**bits - 1) / 2
    of_float16 = 2.0**-11 * (least.abs() + 2 * (largest - least)) + 2.0**-24 * 2**bits
    assert bool(((found.double() - logits.double()).abs() <= half + of_float16 + 1e-6).all())
    apart = (found - found.amin(-1, True)).double() - (logits.double() - least)  # what a distribution depends on
    of_float32 = 2.0**-23 * (abs(centre) + scale) * 4
    assert bool((apart.abs() <= half + 2.0**-11 * (largest - least) + 2.0**-24 * 2**bits + of_float32).all())
    if bits == 8 and scale == 1.0 and centre == 0.0 and classes > 1:  # the order of what is far apart stays
        assert bool((found.argmax(-1) == logits.argmax(-1)).float().mean() > 0.7)


def test_two_bits_are_the_four_values_of_the_grid():
    """By hand: from 0 to 3 in steps of 1, and halves to the even number; the codes 0 2 2 3 are the byte 00 10 10 11."""
    logits = torch.tensor([[0.0, 1.5, 2.4, 3.0]])
    encoding = QuantizedEncoding(bits=2)
    values = stored(encoding, Outputs(logits), 4)
    assert values["codes"].tolist() == [[0b00101011]]
    assert (values["least"].tolist(), values["step"].tolist()) == ([0.0], [1.0])
    assert encoding.decode(values, 4, None, 1).logits.tolist() == [[0.0, 2.0, 2.0, 3.0]]


def test_an_ensembles_members_are_rounded_each_by_its_own_grid():
    logits = torch.randn(3, 5, 7) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]  # (members, N, K)
    outputs = Outputs(logits.mean(0), members=Members(logits, (0.5, 0.25, 0.25), "arithmetic"))
    encoding = QuantizedEncoding(bits=8)
    values = stored(encoding, outputs, 7, members=3)
    said = {"weights": [0.5, 0.25, 0.25], "mean": "arithmetic"}
    found = encoding.decode(values, 7, said, 1)
    assert found.members.weights == (0.5, 0.25, 0.25)
    for each, (own, theirs) in enumerate(zip(found.members.logits, logits, strict=True)):
        assert float((own - theirs).abs().max()) < 0.03 * 10**each
    assert float((found.logits - outputs.logits).abs().max()) < 1


def test_what_no_grid_holds_is_one_line():
    for logits, line in (
        (torch.tensor([[0.0, -torch.inf]]), "bits: found -inf in the teacher's answers, which no grid holds"),
        (torch.tensor([[0.0, torch.nan]]), "logits: found NaN or"),
        (torch.tensor([[0.0, 1e5]]), "dtype: found fp16 for logits up to 100000"),
    ):
        with pytest.raises(InputError, match=line):
            QuantizedEncoding().encode(Outputs(logits), names_of(1))
    for bits in (1, 9):
        with pytest.raises(InputError, match=f"bits: found {bits}; expected 2 to 8"):
            QuantizedEncoding(bits=bits)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 50), st.floats(0.1, 30), st.floats(0.2, 10), st.integers(0, 10**6))
def test_top_k_adds_up_to_one_whatever_the_rounding(classes, k, scale, temperature, seed):
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(seed)) * scale
    encoding = TopKEncoding(k=k, temperatures=(temperature,))
    layout = Layout.of(encoding.fields(classes, (), 0))
    rows = layout.pack({key: value.numpy() for key, value in encoding.encode(Outputs(logits), names_of(5)).items()})
    values = {field.name: torch.from_numpy(layout.unpack(rows, field.name)) for field in layout.fields}
    log_probs, log_rest = encoding.answer(values, classes).at(temperature)
    whole = (logits.double() / temperature).softmax(-1)
    ids = values["ids"]
    assert torch.allclose(log_probs.exp().sum(-1) + log_rest.exp(), torch.ones(5), atol=1e-5)
    assert torch.allclose(log_probs.exp().double(), whole.gather(-1, ids), atol=1e-2 * max(1, scale / temperature / 10))
    assert bool((log_rest == -torch.inf).all()) == (k >= classes)


def test_every_class_is_drawn_by_a_share_of_the_numbers_that_is_its_probability():
    """By enumeration: over all numbers of a fine grid, the expected share of each class is its probability."""
    logits = torch.tensor([[0.0, 1.5, -torch.inf, 3.0, -1.0]])
    probs = logits.double().softmax(-1)
    grid = ((torch.arange(100_000).double() + 0.5) / 100_000)[None]
    share = torch.bincount(drawn(probs, grid)[0], minlength=5) / 100_000
    assert torch.allclose(share.double(), probs[0], atol=1.1e-5)
    assert share[2] == 0


def test_the_expected_gradient_of_draws_is_that_of_the_whole_distribution():
    """Exactly, by enumeration of all draws of two classes out of four, each with its probability."""
    teacher, student = torch.tensor([0.3, 2.0, -1.0, 0.5]).double(), torch.tensor([0.1, -0.4, 0.9, 0.0]).double()
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = torch.zeros(4).double()
    for first in range(4):
        for second in range(4):
            share = (torch.eye(4)[first] + torch.eye(4)[second]).double() / 2
            expected += p[first] * p[second] * (q - share)
    assert torch.allclose(expected, q - p, atol=1e-15)


def test_draws_have_the_frequencies_of_the_distribution_and_are_independent():
    rows, draws, classes = 4000, 12, 30
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0)).mul(2).expand(rows, classes)
    ids = SampledEncoding(draws=draws).encode(Outputs(logits), names_of(rows))["ids"]
    probs, count = logits[0].double().softmax(-1), rows * draws
    found = torch.bincount(ids.flatten(), minlength=classes).double()
    chi = float(((found - count * probs) ** 2 / (count * probs)).sum())
    assert chi < classes - 1 + 4 * math.sqrt(2 * (classes - 1))  # four standard deviations of χ²
    pairs = torch.bincount(ids[:, 0] * classes + ids[:, 1], minlength=classes**2).double() / rows
    agree = float(pairs.view(classes, classes).diagonal().sum())
    usual = float((probs**2).sum())
    assert abs(agree - usual) < 4 * math.sqrt(usual / rows)


def test_draws_are_a_function_of_seed_view_index_and_place():
    logits = torch.zeros(6, 500)
    encoding = SampledEncoding(draws=8)

    def ids(**keys):
        return encoding.encode(Outputs(logits), names_of(6, **keys))["ids"]

    assert torch.equal(ids(), ids())
    assert torch.equal(ids()[3:], encoding.encode(Outputs(logits[:3]), names_of(3, index=torch.arange(3, 6)))["ids"])
    for other in ({"view": 2}, {"seed": 1}, {"index": torch.arange(6) + 1}):
        assert not torch.equal(ids(), ids(**other))


def test_draws_have_more_than_24_bits():
    """A class of a probability below 2^-24 is drawn by the numbers that 24 bits do not have."""
    tiny = 2.0**-40
    probs = torch.tensor([[1 - tiny, tiny]]).double()
    assert drawn(probs, torch.tensor([[1 - 2.0**-48, 1 - 2.0**-24]]).double()).tolist() == [[1, 0]]


def test_the_entropy_is_that_of_the_softened_distribution():
    logits = torch.randn(5, 50) * 3
    for temperature in (1.0, 4.0):
        encoded = SampledEncoding(temperature=temperature).encode(Outputs(logits), names_of(5))
        assert torch.allclose(
            encoded["entropy"], torch.distributions.Categorical(logits=logits / temperature).entropy(), atol=1e-4
        )


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("tok", {}, "did you mean 'topk'"),
        ("topk", {"n": 3}, "'topk' has no key 'n'"),
        ("topk", {"k": 0}, "k: found 0"),
        ("topk", {"temperatures": []}, "temperatures"),
        ("topk", {"temperatures": [1.0, 1.0]}, "temperatures"),
        ("topk", {"temperatures": [float("nan")]}, "temperatures"),
        ("topk", {"dtype": "bf16"}, "dtype"),
        ("sampled", {"draws": 0}, "draws"),
        ("sampled", {"temperature": -1.0}, "temperature"),
        ("dense", {"dtype": "fp8"}, "dtype"),
    ],
)
def test_wrong_settings_are_refused(kind, keys, said):
    with pytest.raises(InputError, match=said):
        encoding_of(kind, keys)
