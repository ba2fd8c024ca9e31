"""Pruned weights stay 0 whatever trains them, and a mask of ones changes nothing."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compress import Quantize, rebuilt, records_of
from limbeck.compress.prune import Prune
from limbeck.compress.settling import settled
from limbeck.compress.weights import Movement, computed_by
from limbeck.errors import InputError, ModelError
from limbeck.identity import network_digests
from limbeck.training.loop import Moment, steps
from limbeck.training.settings import Averaging, Mean

GENERATOR = torch.Generator().manual_seed(0)
DATA = lb.data.TensorSet.of(
    torch.randn(96, 6, generator=GENERATOR), torch.randint(3, (96,), generator=GENERATOR), classes=3
)
EVERY = {"select": ("0", "2", "4")}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def train(model, **settings):
    return lb.fit(model, DATA, DATA, method=lb.methods.hard(), **{"epochs": 2, "batch_size": 16, **settings})


def zeros(model):
    return [(layer.weight == 0).tolist() for layer in model if isinstance(layer, nn.Linear)]


def same(one, other):
    return one.state_dict().keys() == other.state_dict().keys() and all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0},
        {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        {"averaging": 0.9},
        {"averaging": Averaging(Mean(patience=1)), "momentum": 0.0},
        {"clip": 0.1, "accumulate": 2},
    ],
)
def test_what_is_pruned_is_0_after_every_step_under_every_optimizer(settings, monkeypatch):
    model, _ = Prune(sparsity=0.7, **EVERY).apply(network())
    before = zeros(model)
    seen = []
    hook = lambda student, step: seen.append(zeros(student) == before)  # noqa: E731
    model.before_step = (hook,)
    trained = train(model, **settings).student
    assert len(seen) >= 12
    assert all(seen)
    assert zeros(trained) == before
    plain = settled(trained)
    assert zeros(plain) == before
    assert not hasattr(plain[0], "parametrizations")
    assert torch.equal(plain(DATA.inputs), trained.eval()(DATA.inputs))


@pytest.mark.parametrize("settings", [{"weight_decay": 0.01}, {"optimizer": "adamw", "learning_rate": 0.01}])
def test_a_mask_of_ones_changes_nothing_bit_for_bit(settings):
    plain = train(network(), averaging=0.9, **settings).student
    masked, _ = Prune(sparsity=0.0, **EVERY).apply(network())
    masked = settled(train(masked, averaging=0.9, **settings).student)
    assert same(plain, masked)


def test_a_ramp_is_a_function_of_the_step_and_never_gives_back_a_weight():
    model, _ = Prune(sparsity=0.75, ramp_steps=8, every=3, scope="global", **EVERY).apply(network())
    (ramp,) = model.before_step
    seen = []
    model.before_step = (ramp, lambda student, step: seen.append(torch.cat([layer.weight.flatten() == 0 for layer in student if isinstance(layer, nn.Linear)])))  # fmt: skip  # noqa: E501
    train(model)
    total = 16 * 6 + 16 * 16 + 3 * 16
    shares = [0.75 * (1 - (1 - step / 8) ** 3) for step in (0, 3, 6, 8)]
    expected = [int(share * total) for share in shares]
    assert [int(zero.sum()) for zero in seen] == [
        expected[0], *[expected[0]] * 2, *[expected[1]] * 3, *[expected[2]] * 2, *[expected[3]] * 4
    ]  # fmt: skip
    assert all((before <= after).all() for before, after in pairwise(seen))
    ended = torch.cat([layer.weight.flatten() == 0 for layer in model if isinstance(layer, nn.Linear)])
    again = train(Quantize(**EVERY).apply(model)[0]).student  # the ramp begins anew with this training
    left_out = torch.cat([layer.weight.flatten() == 0 for layer in again if isinstance(layer, nn.Linear)])
    assert left_out[ended].all()


def test_a_resumed_training_keeps_its_masks_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    def made():
        return Prune(sparsity=0.8, ramp_steps=10, every=2, **EVERY).apply(network())[0]

    whole = train(made()).student
    distiller = lb.Distiller(made(), objective=lb.methods.hard())
    going = steps(distiller, DATA, DATA, training=lb.Training(epochs=2, batch_size=16), folder=tmp_path)
    for moment, run in going:
        if moment is Moment.UPDATED and run.step == 7:
            run.save()
            break
    going.close()
    resumed = train(made(), folder=tmp_path).student
    assert same(whole, resumed)


def test_movement_leaves_out_the_weights_whose_scores_fell():
    model, _ = Prune(sparsity=0.5, by="movement", ramp_steps=6, every=1, select=("2",)).apply(network())
    score = computed_by(model[2], "weight")[0]
    assert isinstance(score, Movement)
    trained = train(model, momentum=0.0, learning_rate=0.01, schedule="constant").student
    score = computed_by(trained[2], "weight")[0]
    left_out = trained[2].weight == 0
    assert int(left_out.sum()) == 128
    assert score.scores[left_out].max() <= score.scores[~left_out].min()
    weight = trained[2].parametrizations.weight.original
    assert (weight[left_out] != 0).any()  # it goes by the direction, not by the size
    assert (settled(trained)[2].weight == 0).equal(left_out)


def test_a_shared_matrix_has_one_mask_and_stays_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.middle, self.out = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, ids):
            return self.out(self.middle(self.embedding(ids)))

    model, log = Prune(sparsity=0.5, skip=()).apply(Tied())
    assert list(log.changed) == ["embedding", "middle"]
    assert model.embedding.weight.equal(model.out.weight)
    assert int((model.embedding.weight == 0).sum()) == 20
    model(torch.arange(4)).sum().backward()
    small = settled(model)
    assert small.out.weight is small.embedding.weight
    again = rebuilt(Tied(), records_of(small))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(torch.arange(4)), model(torch.arange(4)))
    with pytest.raises(ModelError, match="the weight of 'embedding' is that of 'out' too, which is not selected"):
        Prune(select=("embedding",)).apply(Tied())


def test_lstms_embeddings_and_convolutions_are_pruned_too():
    lstm, log = Prune(sparsity=0.5, skip=()).apply(nn.ModuleDict({"lstm": nn.LSTM(4, 4, num_layers=2)}))
    lstm = lstm["lstm"]
    assert log.figures["sparsity"] == 0.5
    assert "weight_hh_l1: 32 of 64" in log.changed["lstm"]
    inputs = torch.randn(5, 2, 4)
    answer = lstm(inputs)[0]
    plain = nn.LSTM(4, 4, num_layers=2)
    plain.load_state_dict({name: getattr(lstm, name) for name in plain.state_dict()})
    assert torch.equal(plain(inputs)[0], answer)
    conv, _ = Prune(sparsity=0.5, pattern="2:4", skip=()).apply(nn.Sequential(nn.Conv2d(4, 8, 3)))
    assert int((conv[0].weight == 0).sum()) == 4 * 8 * 9 // 2


def test_first_and_last_layer_norms_and_biases_stay_by_default_and_the_log_says_so():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    pruned, log = Prune(sparsity=0.5).apply(model)
    assert list(log.changed) == ["1"]
    assert log.kept == {"0": "skipped", "2": "prune does not change a BatchNorm1d", "3": "skipped"}
    assert not (pruned[1].bias == 0).any()
    assert network_digests(pruned, "m") != network_digests(model, "m")
    assert (model[1].weight != 0).all()  # the given network stays


def test_dropout_before_a_pruned_layer_is_scaled():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 3))
    pruned = Prune(sparsity=0.75, scale_dropout=True).apply(model)[0]
    assert (model[1].p, pruned[1].p) == (0.5, 0.25)
    assert rebuilt(copy.deepcopy(model), records_of(pruned))[1].p == 0.25  # as a checkpoint is read


def test_keys_that_do_not_go_together_are_refused():
    for keys, line in [
        ({"sparsity": 1.0}, "sparsity: found 1.0"),
        ({"pattern": "2:4", "sparsity": 0.8}, "pattern: found 2:4, expected sparsity 0.5"),
        ({"by": "movement"}, "by: found movement, expected scope: layer and a ramp"),
        ({"scale_dropout": True, "ramp_steps": 5}, "scale_dropout: found beside ramp_steps"),
    ]:
        with pytest.raises(InputError, match=line):
            Prune(**keys)
    with pytest.raises(InputError, match="leaves no layer that prune changes"):
        Prune().apply(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))


def test_a_network_with_masks_can_be_copied_and_loaded():
    model, _ = Prune(sparsity=0.5, **EVERY).apply(network())
    again = rebuilt(network(1), records_of(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(copy.deepcopy(again)(DATA.inputs), model(DATA.inputs))


def test_weights_with_a_parametrisation_of_their_own_are_left_alone():
    model = network()
    nn.utils.parametrizations.weight_norm(model[0])
    pruned, log = Prune(sparsity=0.5, skip=()).apply(model)
    assert log.kept["0"] == "prune does not change a ParametrizedLinear"
    assert list(log.changed) == ["2", "4"]
    assert torch.equal(settled(pruned)(DATA.inputs), pruned(DATA.inputs))
    lstm = nn.LSTM(4, 4)
    nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    with pytest.raises(ModelError, match="'weight_hh_l0' of a LSTM is computed by a parametrisation of its own"):
        Prune(skip=()).apply(nn.Sequential(lstm))
