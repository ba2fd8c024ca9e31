"""Low rank: the formulas against the sheet's numbers, every kind of layer, ties, ranks and what is refused."""

import copy

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.compress import (
    LowRank,
    Statistics,
    factorise,
    factorise_by_frequency,
    factorise_by_inputs,
    rank_bound,
    rank_of_energy,
    rebuilt,
    records_of,
    spectrum,
)
from limbeck.compress.factorised import LowRankLSTM
from limbeck.compress.factors import Spectrum, ranks_within
from limbeck.data import TensorSet
from limbeck.errors import CheckpointError, InputError, ModelError
from limbeck.evaluation import parameters
from walk import over

W = torch.tensor([[2.0, 0, 1], [0, 1, 1], [1, 1, 2], [3, 0, 2]], dtype=torch.float64)
SHARES = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- formulas


def test_the_sheets_example_of_singular_values_and_of_the_error_of_each_rank():
    assert spectrum(W).tolist() == pytest.approx([4.748546, 1.843672, 0.228447], abs=1e-6)
    for rank, error in ((1, 3.451314), (2, 0.052188), (3, 0.0)):
        left, right = factorise(W, rank)
        assert float((W - left @ right).square().sum()) == pytest.approx(error, abs=1e-6)
        assert float(left.norm()) == pytest.approx(float(right.norm()), rel=1e-12)
    assert torch.allclose(left @ right, W, atol=1e-12)


def test_the_sheets_example_of_frequencies():
    def weighted(factors):
        return float((SHARES[:, None] * (W - factors[0] @ factors[1]).square()).sum())

    assert weighted(factorise_by_frequency(W, SHARES, 1)) == pytest.approx(0.428449, abs=1e-6)
    assert weighted(factorise(W, 1)) == pytest.approx(0.553966, abs=1e-6)


def test_the_weighted_forms_are_the_plain_one_for_equal_weights_of_any_scale():
    plain = factorise(W, 2)
    for scale in (1e-3, 1.0, 40.0):
        for found in (
            factorise_by_frequency(W, torch.full((4,), scale), 2),
            factorise_by_inputs(W, scale * torch.eye(3), 2),
        ):
            for one, other in zip(found, plain, strict=True):
                assert torch.allclose(one, other, atol=1e-12)


def test_input_weighting_is_the_optimum_of_the_answers_error():
    weights, inputs = drawn(6, 5), drawn(400, 5, seed=1) * torch.tensor([5.0, 1, 1, 0.2, 0.1])
    moment = inputs.T @ inputs / len(inputs)

    def error(left, right):
        return float(((weights - left @ right) @ inputs.T).square().mean())

    best = factorise_by_inputs(weights, moment, 2)
    assert error(*best) < 0.7 * error(*factorise(weights, 2))
    left, right = (each.clone().requires_grad_() for each in best)
    loss = ((weights - left @ right) @ inputs.T).square().mean()
    gradients = torch.autograd.grad(loss, [left, right])
    assert max(float(each.abs().max()) for each in gradients) < 1e-4  # ε moves the optimum a little


def test_signs_do_not_depend_on_the_machine_and_both_factors_learn():
    matrix = drawn(7, 5)
    left, right = factorise(matrix, 5)
    column = left.gather(0, left.abs().argmax(0)[None])
    assert bool((column > 0).all())
    for one, other in zip(factorise(-matrix, 5), (left, -right), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    left.requires_grad_(), right.requires_grad_()
    (left @ right).square().sum().backward()
    assert float(left.grad.norm()) > 0
    assert float(right.grad.norm()) > 0


def test_ranks_of_energy_and_of_a_budget():
    values = torch.tensor([3.0, 2.0, 1.0])
    assert [rank_of_energy(values, share) for share in (0.1, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_of_energy(torch.tensor([2.0, 0.0, 0.0]), 1.0) == 1
    spectra = {
        "a": Spectrum(torch.tensor([5.0, 4.0, 0.1, 0.1]), 16, 16),
        "b": Spectrum(torch.tensor([6.0, 1.0, 0.9, 0.8]), 16, 16),
    }
    one = 32 * 4
    assert ranks_within(spectra, 2 * one) == {"a": 1, "b": 1}
    assert ranks_within(spectra, 3 * one + one - 1) == {"a": 2, "b": 1}
    assert ranks_within(spectra, 4 * one) == {"a": 2, "b": 2}
    everything = sum(each.whole for each in spectra.values())
    small = {"a": Spectrum(torch.tensor([5.0, 4.0, 3.0]), 3, 3), "b": Spectrum(torch.tensor([9.0, 0.1]), 16, 16)}
    assert ranks_within(small, small["a"].whole + one) == {"a": None, "b": 1}
    assert ranks_within(spectra, everything) == {"a": 4, "b": 4}
    with pytest.raises(InputError, match=r"bytes: found 10, expected 256 or more"):
        ranks_within(spectra, 10)


def test_the_greedy_budget_is_the_best_of_all_ranks_that_take_as_much():
    spectra = {"a": Spectrum(spectrum(drawn(12, 9)), 12, 9), "b": Spectrum(spectrum(3 * drawn(8, 20)), 8, 20)}
    found = ranks_within(spectra, 500)

    def error(ranks):
        return sum(float(each.values[ranks[path] :].square().sum()) for path, each in spectra.items())

    used = sum(each.size(found[path]) for path, each in spectra.items())
    others = [{"a": a, "b": b} for a in range(1, 6) for b in range(1, 6)]
    within = [each for each in others if sum(spectra[path].size(each[path]) for path in each) <= used]
    assert error(found) == min(error(each) for each in within)


# ------------------------------------------------------------------------------------------------------------- layers


class Reader(nn.Module):
    """An embedding, an LSTM of two layers and a softmax, tied or not."""

    def __init__(self, *, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(30, 12)
        self.lstm = nn.LSTM(12, 12, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(12, 30)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, ids):
        return self.decoder(self.lstm(self.embedding(ids))[0]).mean(1)


def network(kind):
    torch.manual_seed(0)
    made = {
        "linear": lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10)),
        "no bias": lambda: nn.Linear(12, 16, bias=False),
        "conv": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, (3, 1), dilation=2, padding="same", padding_mode="circular", bias=False),
            nn.Flatten(),
        ),
        "text": Reader,
        "tied": lambda: Reader(tied=True),
    }
    return made[kind]().double().eval()


def inputs(kind):
    if kind in ("text", "tied"):
        return torch.randint(30, (4, 7), generator=torch.Generator().manual_seed(2))
    return drawn(4, 3, 8, 8) if kind == "conv" else drawn(4, 12)


KINDS = ("linear", "no bias", "conv", "text", "tied")


def full(module, rank=None):
    """A plan of full rank for every matrix, which no recipe may ask for; of LSTMs too."""
    if isinstance(module, nn.LSTM):
        return [[module.input_size, module.hidden_size]] * module.num_layers
    return min(module.weight.flatten(1).shape)


@over("kind", KINDS)
def test_at_full_rank_each_layer_answers_as_before(kind, monkeypatch):
    model, given = network(kind), inputs(kind)
    monkeypatch.setattr("limbeck.compress.low_rank.rank_bound", lambda m, n: 1e9)
    small, _ = LowRank(rank=1.0).apply(model)
    assert float((small(given) - model(given)).detach().abs().max()) < 1e-10
    assert not any(type(each) is nn.LSTM for each in small.modules())


@over("kind", KINDS)
def test_a_transform_is_pure_deterministic_and_rebuilt_from_its_record(kind):
    model, given = network(kind), inputs(kind)
    before = copy.deepcopy(model.state_dict())
    small, log = LowRank(rank=2).apply(model)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not records_of(model)
    assert parameters(small) < parameters(model)
    again, same = LowRank(rank=2).apply(model)
    assert log == same
    assert torch.equal(again(given), small(given))
    empty = rebuilt(network(kind), records_of(small))
    assert {name: each.shape for name, each in empty.state_dict().items()} == {
        name: each.shape for name, each in small.state_dict().items()
    }
    empty.load_state_dict(small.state_dict())
    assert torch.equal(empty(given), small(given))
    assert records_of(empty) == records_of(small)
    assert set(log.changed) | set(log.kept) == {
        path for path, each in model.named_modules() if any(True for _ in each.parameters(recurse=False))
    }


def test_the_error_of_each_kind_of_layer_is_that_of_its_flattened_matrix():
    for kind in ("linear", "conv"):
        model = network(kind)
        small, log = LowRank(rank=2).apply(model)
        total = 0.0
        for path in log.changed:
            matrix, product = (each.get_submodule(path).weight.detach() for each in (model, small))
            error = float((matrix - product).square().sum())
            assert error == pytest.approx(float(spectrum(matrix.flatten(1))[2:].square().sum()), rel=1e-9)
            total += error
        assert log.figures["squared_error"] == pytest.approx(total, rel=1e-9)


def test_a_tied_matrix_is_factorised_once_and_serves_lookup_and_logits():
    model = network("tied")
    small, _ = LowRank(rank=3, skip=("lstm",)).apply(model)
    assert small.decoder.a.weight is small.embedding.a.weight
    assert small.decoder.b.weight is small.embedding.b.weight
    assert parameters(small) == parameters(model) - 30 * 12 + 3 * (30 + 12)
    left, right = factorise(model.embedding.weight, 3)
    assert torch.allclose(small.embedding(torch.arange(30)), left @ right)
    hidden = drawn(2, 12)
    assert torch.allclose(small.decoder(hidden), hidden @ (left @ right).T + model.decoder.bias)
    assert torch.allclose(small.embedding.scores(hidden), hidden @ (left @ right).T)
    for skip in ("decoder", "embedding"):
        with pytest.raises(ModelError, match=r"is tied to .* and would be untied; select both, or skip both"):
            LowRank(rank=3, skip=(skip, "lstm")).apply(model)


def test_an_lstm_of_low_rank_steps_as_it_runs_and_learns():
    torch.manual_seed(0)
    layer = nn.LSTM(8, 10, num_layers=2).double()
    small, _ = LowRank(rank=3).apply(layer)
    given = drawn(9, 4, 8)
    whole, state = small(given)
    parts, carried = [], None
    for step in given.split([1, 2, 6]):
        part, carried = small(step, carried)
        parts.append(part)
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(carried, state, strict=True))
    composed = copy.deepcopy(layer)
    with torch.no_grad():
        for number in range(2):
            getattr(composed, f"weight_ih_l{number}").copy_(small.input_a[number] @ small.input_b[number])
            getattr(composed, f"weight_hh_l{number}").copy_(small.hidden_a[number] @ small.hidden_b[number])
    assert torch.allclose(composed(given)[0], whole, atol=1e-12)
    whole.square().sum().backward()
    assert all(float(each.grad.norm()) > 0 for each in small.parameters())
    with pytest.raises(ModelError, match="expected \\(N, T, n\\)"):
        small(nn.utils.rnn.pack_sequence([drawn(3, 8)]))
    assert isinstance(small, LowRankLSTM)


def test_inputs_and_frequencies_of_training_samples_weigh_the_error():
    model, ids = network("text"), torch.cat([torch.zeros(60, 7), torch.ones(40, 7)]).long()
    statistics = Statistics.of(TensorSet.of(ids, torch.zeros(100, dtype=torch.int64), classes=30), 100)
    small, _ = LowRank(rank=3, weight="frequency", select=("embedding",)).apply(model, statistics)
    plain, _ = LowRank(rank=3, select=("embedding",)).apply(model)
    vectors = model.embedding.weight
    own, other = ((each.embedding.weight - vectors).detach() for each in (small, plain))
    assert float(own[:2].norm()) < 0.2 * float(other[:2].norm())
    assert float(own.norm()) > float(other.norm())
    for kind in ("linear", "conv"):
        model, given = network(kind), inputs(kind)
        scale = torch.tensor([9.0, 3, 1]).view(3, 1, 1) if kind == "conv" else torch.arange(12) ** 2.0
        many = torch.cat([given * scale, -given * scale])
        samples = TensorSet.of(many.float(), torch.zeros(len(many), dtype=torch.int64), classes=10)
        weighed, _ = LowRank(rank=2, weight="input", select=("0",)).apply(model, Statistics.of(samples))
        plain, _ = LowRank(rank=2, select=("0",)).apply(model)
        own, other = ((each[0](many) - model[0](many)).detach().norm() for each in (weighed, plain))
        assert float(own) < 0.9 * float(other)
    with pytest.raises(InputError, match="statistics: found none; expected Statistics of training data"):
        LowRank(rank=2, weight="input").apply(model)


def test_calibration_samples_are_named_by_their_place_and_leave_the_model_as_it_is():
    samples = TensorSet.of(drawn(50, 12).float(), torch.arange(50) % 4)
    statistics = Statistics.of(samples.subset(torch.arange(10, 50)), 16, batch_size=5)
    assert len(statistics.index) == 16
    assert int(statistics.index.min()) >= 10
    assert torch.equal(statistics.index, Statistics.of(samples.subset(torch.arange(10, 50)), 16).index)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    rows = statistics.kept(model, ["2"])["2"]
    assert [len(each) for each in rows] == [5, 5, 5, 1]
    assert model.training
    assert float(model[1].num_batches_tracked) == 0


class Padded(nn.Module):
    """Reads rows of numbers of which some are padding."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, values, attention_mask):
        return self.layer(values).mean(1)


def test_padding_is_not_seen():
    model, values = Padded(), drawn(5, 6, 3).float()
    real = torch.arange(6) < torch.tensor([1, 6, 3, 2, 4])[:, None]
    batch = Batch.of({"values": values, "attention_mask": real.long()}, torch.zeros(5, dtype=torch.int64))
    (found,) = Statistics([batch]).kept(model, ["layer"])["layer"]
    assert torch.equal(found, values[real])
    other = Batch.of({"values": values.masked_fill(~real[..., None], 9.0), "attention_mask": real.long()}, batch.labels)
    small = [LowRank(rank=1, weight="input").apply(model, Statistics([each]))[0] for each in (batch, other)]
    assert torch.equal(small[0].layer.weight, small[1].layer.weight)


# ------------------------------------------------------------------------------------------------------------ refused


@over(
    "keys, expected",
    [
        ({"rank": 8}, "rank: found rank 8 for '0' \\(16, 12\\), which makes it larger; expected r < mn/\\(m\\+n\\) = "
         "6.857. Lower it, or skip '0'"),
        ({"energy": 1.0}, "energy: found rank 12 for '0'.*mn/\\(m\\+n\\)"),
        ({"rank": 1.0}, "makes it larger"),
        ({"bytes": 10**6}, "bytes: found room for all selected layers as they are"),
        ({"bytes": 1}, "bytes: found 1, expected"),
        ({"rank": 2, "select": ("1",)}, "select: '1' names no layer with weights; one of: 0, 2"),
        ({"rank": 2, "select": ("fc",)}, "select: 'fc' names no layer with weights"),
        ({"rank": 2, "skip": ("*",)}, "leaves no layer that low_rank changes; expected some of: 0, 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_network_is_one_line(keys, expected):
    with pytest.raises(InputError, match=expected):
        LowRank(**keys).apply(network("linear"))


@over(
    "keys, expected",
    [
        ({}, "rank: found none, expected one of rank, energy and bytes"),
        ({"rank": 2, "energy": 0.5}, "rank: found rank and energy"),
        ({"rank": 0}, "rank: found 0"),
        ({"rank": 1.5}, "rank: found 1.5, expected a whole number, or a share"),
        ({"energy": 0.0}, "energy: found 0.0"),
        ({"rank": 2, "weight": "inputs"}, "weight: found 'inputs', expected one of: none, input, frequency"),
        ({"rank": 2, "select": ()}, "select: found an empty list"),
    ],
)
def test_keys_that_no_network_fits_are_one_line(keys, expected):
    with pytest.raises(InputError, match=expected):
        LowRank(**keys)


def test_a_model_without_such_layers_and_records_of_another_model_are_one_line():
    with pytest.raises(InputError, match="a model with such layers; this one has none"):
        LowRank(rank=2).apply(nn.Sequential(nn.LayerNorm(4)))
    small, _ = LowRank(rank=2).apply(network("linear"))
    for records in (
        [{"kind": "nothing", "keys": {}, "plan": {}}],
        [{"kind": "low_rank", "keys": {"rank": 2}, "plan": {}}],
        [{"kind": "low_rank", "keys": {"rank": 2, "no": 1}, "plan": {}}],
        [{"kind": "low_rank", "keys": {"rank": 2}, "plan": {"ranks": {"7": 2}}}],
        [{"kind": "low_rank", "keys": {"rank": 2}, "plan": {"ranks": {"0": "x"}}}],
        [{"kind": ["low_rank"], "keys": {"rank": 2}, "plan": {}}],
        [{}],
    ):
        with pytest.raises(CheckpointError):
            rebuilt(network("linear"), records)
    with pytest.raises(CheckpointError, match="low_rank"):
        rebuilt(nn.Sequential(nn.ReLU()), records_of(small))


def test_the_bound_is_where_two_factors_take_less():
    for m, n in ((64, 64), (7, 5), (100, 3)):
        most = Spectrum(torch.empty(0), m, n).most
        assert most * (m + n) < m * n <= (most + 1) * (m + n)
        assert most < rank_bound(m, n)


@pytest.mark.parametrize("training", [True, False])
def test_a_low_rank_lstm_tells_torch_whether_it_trains(monkeypatch, training):
    """On a GPU its backward pass is refused otherwise."""
    told = []
    original = torch.lstm
    monkeypatch.setattr(torch, "lstm", lambda *given: told.append(given[6]) or original(*given))
    layer = LowRankLSTM(nn.LSTM(6, 6, batch_first=True), [(2, 2)]).train(training)
    layer(torch.randn(4, 5, 6))
    assert told == [training]


@pytest.mark.parametrize(
    ("weight", "model"),
    [("frequency", nn.Sequential(nn.Linear(12, 12))), ("input", nn.Sequential(nn.Embedding(12, 12)))],
)
def test_a_weight_that_weighs_nothing_is_refused(weight, model):
    inputs = torch.randint(12, (8, 3)) if weight == "input" else torch.randn(8, 12)
    data = TensorSet.of(inputs, torch.arange(8) % 2)
    with pytest.raises(InputError, match=f"^weight: found {weight}, which weighs the errors of"):
        LowRank(rank=2, weight=weight).apply(model, Statistics.of(data, 8))


def test_all_the_energy_is_the_rank_and_no_rounding():
    torch.manual_seed(0)
    matrix = torch.randn(10, 3, dtype=torch.float64) @ torch.randn(3, 20, dtype=torch.float64)
    assert rank_of_energy(spectrum(matrix), 1.0) == 3
