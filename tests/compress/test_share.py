"""Sharing: one parameter for several layers, its gradient the sum of theirs, and projections between two sizes."""

import copy

import pytest
import torch
from torch import nn

from limbeck.compress import LowRank, Share, rebuilt, records_of
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import parameters
from limbeck.networks import distinct
from walk import over


class Reader(nn.Module):
    """An embedding of width d, a layer and a softmax that reads width h."""

    def __init__(self, width=6, hidden=6, rows=20):
        super().__init__()
        self.embedding = nn.Embedding(rows, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.middle = nn.Linear(width, hidden)
        self.softmax = nn.Linear(hidden, rows)

    def forward(self, ids):
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return self.softmax(torch.tanh(self.middle(hidden)))


def reader(**sizes):
    torch.manual_seed(0)
    return Reader(**sizes).double()


IDS = torch.randint(20, (4, 5), generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(20, (4, 5), generator=torch.Generator().manual_seed(2))


def loss_of(model):
    return nn.functional.cross_entropy(model(IDS).flatten(0, 1), LABELS.flatten())


def test_the_softmax_and_the_embedding_are_one_matrix_and_the_owners_values_win():
    model = reader()
    for owner, other in (("softmax", "embedding"), ("embedding", "softmax")):
        shared, log = Share(owner=owner, others=(other,)).apply(model)
        assert shared.embedding.weight is shared.softmax.weight
        assert torch.equal(shared.softmax.weight, model.get_submodule(owner).weight)
        assert parameters(shared) == parameters(model) - 20 * 6
        assert torch.equal(shared.softmax.bias, model.softmax.bias)
        assert set(log.changed) == {f"{other}.weight"}
        assert len(distinct(shared)[0]) == len(distinct(model)[0]) - 1
        again = rebuilt(reader(), records_of(shared))
        again.load_state_dict(shared.state_dict())
        assert again.embedding.weight is again.softmax.weight
        assert torch.equal(again(IDS), shared(IDS))
    mean, _ = Share(owner="softmax", others=("embedding",), mean=True).apply(model)
    assert torch.allclose(mean.softmax.weight, (model.softmax.weight + model.embedding.weight) / 2)


def test_two_steps_of_sgd_are_the_hand_sum_of_both_gradients_and_decay_counts_once():
    model, _ = Share(owner="softmax", others=("embedding",)).apply(reader())
    untied = copy.deepcopy(model)
    untied.embedding.weight = nn.Parameter(untied.softmax.weight.detach().clone())
    rate, decay = 0.5, 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)
    by_hand = torch.optim.SGD(untied.parameters(), lr=rate, weight_decay=decay)
    assert len(optimizer.param_groups[0]["params"]) == len(by_hand.param_groups[0]["params"]) - 1
    for _ in range(2):
        for each, network in ((optimizer, model), (by_hand, untied)):
            each.zero_grad()
            loss_of(network).backward()
        both = untied.embedding.weight.grad + untied.softmax.weight.grad
        for each in (untied.embedding, untied.softmax):
            each.weight.grad = both.clone()
        optimizer.step()
        by_hand.step()
        assert torch.allclose(model.softmax.weight, untied.softmax.weight, atol=1e-12)
        assert torch.allclose(model.embedding.weight, untied.embedding.weight, atol=1e-12)


def test_a_projection_stands_between_two_sizes_and_begins_as_the_least_squares_solution():
    model = reader(hidden=9)
    shared, log = Share(owner="embedding", others=("softmax",)).apply(model)
    assert shared.softmax.out.weight is shared.embedding.weight
    product = shared.embedding.weight @ shared.softmax.projection.weight
    for step in (0.01, -0.01):
        moved = shared.softmax.projection.weight + step
        best = (product - model.softmax.weight).norm()
        assert float(best.detach()) < float((shared.embedding.weight @ moved - model.softmax.weight).detach().norm())
    assert parameters(shared) == parameters(model) - 20 * 9 + 6 * 9 + 6
    assert log.plan == {"projections": {"softmax": 6}}
    again = rebuilt(reader(hidden=9), records_of(shared))
    again.load_state_dict(shared.state_dict())
    assert torch.equal(again(IDS), shared(IDS))
    exact = reader(hidden=9)
    with torch.no_grad():
        exact.softmax.weight.copy_(exact.embedding.weight @ torch.randn(6, 9, dtype=torch.float64))
    assert torch.allclose(Share(owner="embedding", others=("softmax",)).apply(exact)[0](IDS), exact(IDS), atol=1e-10)


def test_layers_across_depth_share_everything_and_are_then_factorised_once():
    model = reader()
    shared, _ = Share(owner="blocks.0", others=("blocks.1", "blocks.2")).apply(model)
    assert parameters(shared) == parameters(model) - 2 * (6 * 6 + 6)
    assert shared.blocks[2].bias is shared.blocks[0].bias
    small, _ = LowRank(rank=2, select=("blocks",)).apply(shared)
    assert small.blocks[1].a.weight is small.blocks[0].a.weight
    assert parameters(small) == parameters(shared) - 6 * 6 + 2 * 12
    both, _ = LowRank(rank=3, select=("embedding", "softmax")).apply(
        Share(owner="softmax", others=("embedding",)).apply(shared)[0]
    )
    again = rebuilt(reader(), records_of(both))
    again.load_state_dict(both.state_dict())
    assert torch.equal(again(IDS), both(IDS))
    assert parameters(again) == parameters(both)


@over(
    "keys, expected",
    [
        ({"owner": "softmax", "others": ("embeding",)}, "others: the model has no layer 'embeding'.*'embedding'"),
        ({"owner": "soft", "others": ("embedding",)}, "owner: the model has no layer 'soft'"),
        ({"owner": "blocks.0", "others": ("embedding",)}, r"'embedding.weight' is \(20, 6\), expected \(6, 6\)"),
        ({"owner": "embedding", "others": ("blocks",)}, "of different kinds and 'blocks' has no weight"),
        ({"owner": "softmax.weight", "others": ("middle.weight",)}, r"is \(6, 6\), expected \(20, 6\)"),
    ],
)
def test_what_cannot_be_shared_is_one_line(keys, expected):
    with pytest.raises(ModelError, match=expected):
        Share(**keys).apply(reader())


def test_what_is_shared_already_or_would_be_untied_is_one_line():
    shared, _ = Share(owner="softmax", others=("embedding",)).apply(reader(rows=6))
    with pytest.raises(ModelError, match=r"'embedding.weight' is 'softmax.weight' already; leave it out"):
        Share(owner="softmax", others=("embedding",)).apply(shared)
    with pytest.raises(ModelError, match=r"is tied to .* and would be untied"):
        Share(owner="middle.weight", others=("embedding.weight",)).apply(shared)
    with pytest.raises(ModelError, match="leave projection at auto"):
        Share(owner="embedding", others=("softmax",), projection="none").apply(reader(hidden=9))
    with pytest.raises(InputError, match="set mean: false"):
        Share(owner="embedding", others=("softmax",), mean=True).apply(reader(hidden=9))
    for others in ((), ("a",), ("b", "b")):
        with pytest.raises(InputError, match="expected one path or more, each once"):
            Share(owner="a", others=others)
