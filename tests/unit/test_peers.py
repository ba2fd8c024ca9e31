"""Peers in one process: the update rules against a float64 reference, whom a gradient reaches, and exact resume."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.data import Augment, Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, RunError
from limbeck.outputs import Members, Outputs
from limbeck.peers import (
    Others,
    Peer,
    PeerDistiller,
    Predictions,
    circle,
    fit_together,
    mean_over_peers,
    own_part,
    publications,
)
from limbeck.peers.predictions import PredictionsTeacher
from limbeck.peers.together import exchanging
from limbeck.randomness import derive_seed
from limbeck.tasks import MULTILABEL
from limbeck.training import Training, checkpoints, fit, state

SIZE, CLASSES, WIDTH = 42, 3, 5
PLAIN = {"batch_size": 8, "learning_rate": 0.3, "momentum": 0.0, "schedule": "constant"}


def samples(size=SIZE):
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (size,), generator=draw)
    return TensorSet.of(torch.randn(size, WIDTH, generator=draw), labels, classes=CLASSES)


def network(seed, *, noisy=False):
    torch.manual_seed(seed)
    if not noisy:
        return nn.Linear(WIDTH, CLASSES)
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, CLASSES))


def objective(temperature=1.0, hard_weight=1.0, soft_weight=1.0):
    return methods.kd(temperature=temperature, hard_weight=hard_weight, soft_weight=soft_weight)


def trained(count=2, *, update="simultaneous", every=1, burn_in=0, method=objective, noisy=False, **settings):
    """Train peers and return their networks."""
    more = {key: settings.pop(key) for key in ("folder", "validation", "order", "predicted") if key in settings}
    training = Training(**{"epochs": 2, **PLAIN, **settings})
    networks = [network(seed, noisy=noisy) for seed in range(count)]
    predicted = samples() if more.get("predicted") else None
    distillers = circle(networks, [method() for _ in networks], burn_in=burn_in, predicted=predicted)
    peers = [
        Peer(
            distiller,
            samples(),
            more.get("validation"),
            training=training,
            seed=number,
            order=more.get("order"),
            folder=None if "folder" not in more else more["folder"] / f"peer-{number}",
        )
        for number, distiller in enumerate(distillers)
    ]
    results = fit_together(peers, update=update, every=every)
    assert [result.student for result in results] == networks
    return networks


def weights(networks):
    return [torch.cat([tensor.double().flatten() for tensor in each.state_dict().values()]) for each in networks]


def same(ones, others):
    return all(torch.equal(one, other) for one, other in zip(weights(ones), weights(others), strict=True))


def test_a_burn_in_without_a_step_is_refused():
    batch = samples().batch(torch.arange(8), augment=None, seed=0, view=0)
    waiting, ready = (circle([network(0), network(1)], [objective()] * 2, burn_in=steps)[0] for steps in (3, 0))
    ready(batch)
    assert set(waiting(batch, step=0).parts) == {"hard"}
    with pytest.raises(InputError, match=r"^step: found None, but burn_in=3 changes with it"):
        waiting(batch)


# ---------------------------------------------------------------------------------------------------------- the formula


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(count, *, update, every, burn_in, temperature, alpha, epochs=2, rate=0.3, own_order=True):
    """Return the peers' weights by the algorithm of Anil et al. (2018), in float64 with gradients in closed form.

    The gradient of the cross-entropy with labels is q - y, that of T²·H(p̃, q̃) is T(q̃ - p̃).
    """
    data = samples()
    inputs = [network(seed) for seed in range(count)]
    now = [
        np.concatenate([n.weight.detach().double().numpy(), n.bias.detach().double().numpy()[:, None]], axis=1)
        for n in inputs
    ]
    loaders = [Loader(data, 8, seed=derive_seed(number if own_order else 7, "data")) for number in range(count)]
    seen = [each.copy() for each in now]
    step = 0
    for epoch in range(epochs):
        for batches in zip(*(loader.epoch(epoch) for loader in loaders), strict=True):
            exchange = step >= burn_in and (step - burn_in) % every == 0
            if exchange:
                seen = [each.copy() for each in now]
            steps = []
            for number, batch in enumerate(batches):
                x = np.concatenate([batch.inputs.double().numpy(), np.ones((len(batch), 1))], axis=1)
                z = x @ now[number].T
                y = np.eye(CLASSES)[batch.labels.numpy()]
                gradient = softmax(z) - y
                if step >= burn_in:
                    told = [softmax(x @ seen[j].T / temperature) for j in range(count) if j != number]
                    mean = sum(told) / len(told)
                    gradient = gradient + alpha * temperature * (softmax(z / temperature) - mean)
                change = rate * gradient.T @ x / len(batch)
                if update == "sequential":
                    now[number] = now[number] - change
                    if exchange:
                        seen[number] = now[number].copy()
                else:
                    steps.append(change)
            if update == "simultaneous":
                now = [each - change for each, change in zip(now, steps, strict=True)]
            step += 1
    return now


@pytest.mark.miniature(1)
@pytest.mark.parametrize("update", ["simultaneous", "sequential"])
@pytest.mark.parametrize(
    ("count", "every", "burn_in", "temperature", "alpha"),
    [(2, 1, 0, 1.0, 1.0), (3, 1, 0, 1.0, 1.0), (3, 1, 4, 2.0, 0.5), (2, 3, 2, 1.0, 1.0), (4, 100, 3, 3.0, 2.0)],
)
def test_peers_learn_by_the_algorithm(update, count, every, burn_in, temperature, alpha):
    wanted = reference(count, update=update, every=every, burn_in=burn_in, temperature=temperature, alpha=alpha)
    how = {"update": update, "every": every, "burn_in": burn_in}
    for joined in (lambda method: method, mean_over_peers):  # the same gradient, of another loss
        found = trained(count, **how, method=lambda joined=joined: joined(objective(temperature, soft_weight=alpha)))
        close(found, wanted)
    found = trained(count, **how, method=lambda: objective(temperature, soft_weight=alpha), predicted=True)
    close(found, wanted)


def close(found, wanted):
    for each, known in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each.weight.detach().double().numpy(), known[:, :-1], atol=2e-6)
        np.testing.assert_allclose(each.bias.detach().double().numpy(), known[:, -1], atol=2e-6)


@pytest.mark.thorough
def test_the_two_orders_of_update_and_other_periods_are_told_apart():
    plain = trained()
    for other in (
        {"update": "sequential"},
        {"every": 2},
        {"burn_in": 1},
        {"method": lambda: objective(2.0)},
        {"order": 7},
    ):
        assert not same(plain, trained(**other)), other
    assert same(plain, trained())


def test_peers_may_share_their_batches_and_not_their_dropout():
    wanted = reference(2, update="simultaneous", every=1, burn_in=0, temperature=1.0, alpha=1.0, own_order=False)
    close(trained(order=7), wanted)


def told(students, batch, method):
    """Return the losses of peers that all see what the others are."""
    distillers = circle(students, [method() for _ in students])
    for each in distillers:
        each.others.present = [True] * len(each.others.models)
    return [each(batch) for each in distillers]


def a_batch():
    data = samples()
    return Batch.of(data.gather(torch.arange(9)), data.labels[:9])


def test_the_mutual_loss_of_two_is_the_papers_formula():
    students = [network(0), network(1)]
    batch = a_batch()
    losses = told(students, batch, lambda: mean_over_peers(objective()))
    logs = [torch.log_softmax(student(batch.inputs).double(), 1) for student in students]
    for own, other, loss in ((0, 1, losses[0]), (1, 0, losses[1])):
        q, p = logs[own], logs[other]
        hard = -q[torch.arange(9), batch.labels].mean()
        soft = (p.exp() * (p - q)).sum(1).mean()
        torch.testing.assert_close(loss.total.double(), hard + soft, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_mean_of_divergences_lies_above_the_divergence_of_the_mean_by_what_the_others_disagree(temperature):
    students, batch = [network(seed) for seed in range(4)], a_batch()
    apart = told(students, batch, lambda: mean_over_peers(objective(temperature)))[0].parts["soft"].mean
    joined = told(students, batch, lambda: objective(temperature))[0].parts["soft"].mean
    others = torch.stack([torch.softmax(each(batch.inputs).double() / temperature, 1) for each in students[1:]])
    mean = others.mean(0)
    spread = (others * (others.log() - mean.log())).sum(-1).mean()
    assert apart == pytest.approx(joined + temperature**2 * float(spread.detach()), rel=1e-5)


def test_with_two_peers_both_losses_are_one():
    students, batch = [network(0), network(1)], a_batch()
    apart, joined = (told(students, batch, make)[0].total for make in (lambda: mean_over_peers(objective()), objective))
    torch.testing.assert_close(apart, joined)


def test_no_gradient_reaches_the_others_and_their_statistics_stay():
    students = [network(seed, noisy=True) for seed in range(3)]
    distillers = circle(students, [objective() for _ in students])
    for each in distillers:
        each.train()
        each.others.present = [True, True]
    before = [each.published.state_dict()["1.running_mean"].clone() for each in distillers]
    distillers[0](a_batch()).total.backward()
    assert all(parameter.grad is not None for parameter in students[0].parameters())
    for other, kept, old in zip(students[1:], distillers[1:], before[1:], strict=True):
        assert all(parameter.grad is None for parameter in other.parameters())
        assert all(not parameter.requires_grad for parameter in kept.published.parameters())
        assert torch.equal(kept.published.state_dict()["1.running_mean"], old)
    assert len(list(filter(lambda p: p.requires_grad, distillers[0].parameters()))) == len(
        list(students[0].parameters())
    )


def test_who_has_published_nothing_is_not_listened_to():
    students = [network(seed) for seed in range(3)]
    distiller = circle(students, [objective() for _ in students])[0]
    batch = a_batch()
    assert set(distiller(batch).parts) == {"hard"}
    distiller.others.present = [False, True]
    with_one = distiller(batch)
    assert set(with_one.parts) == {"hard", "soft"}
    alone_with = PeerDistiller(students[0], Others([distiller.others.models[1]]), objective())
    alone_with.others.present = [True]
    assert torch.equal(alone_with(batch).total, with_one.total)


def test_members_that_are_none_are_taken_as_one_teacher():
    term = mean_over_peers(objective()).terms["soft"]
    batch = Batch.of(torch.zeros(2, 3), torch.tensor([0, 1]))
    logits = torch.randn(2, 4)
    one = term.sum({"student": Outputs(torch.zeros(2, 4)), "teacher": Outputs(logits)}, batch, 0)
    members = Members(logits[None], (1.0,))
    other = term.sum({"student": Outputs(torch.zeros(2, 4)), "teacher": Outputs(logits, members=members)}, batch, 0)
    torch.testing.assert_close(one, other)


# --------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.thorough
@pytest.mark.parametrize("update", ["simultaneous", "sequential"])
@pytest.mark.parametrize(("every", "burn_in"), [(1, 0), (4, 3), (5, 20)])
def test_predictions_teach_what_weights_of_the_same_age_do(monkeypatch, update, every, burn_in):
    count, fill = 0, Predictions.fill

    def counted(said, network):
        nonlocal count
        count += 1
        fill(said, network)

    monkeypatch.setattr(Predictions, "fill", counted)
    how = {"update": update, "every": every, "burn_in": burn_in, "noisy": True}
    ones, others = trained(3, **how), trained(3, **how, predicted=True)
    for one, other in zip(weights(ones), weights(others), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert count == 3 * publications(12, burn_in, every, update)


def test_predictions_are_what_the_network_says_of_each_sample_by_its_index():
    whole = samples()
    part = whole.subset(torch.tensor([30, 4, 11]))
    said, model = Predictions(part), network(0)
    said.fill(model)
    asked = PredictionsTeacher(said)(whole.batch(torch.tensor([11, 30]), augment=None, seed=0, view=0)).logits
    torch.testing.assert_close(asked, model(whole.gather(torch.tensor([11, 30]))))
    assert not asked.requires_grad
    assert said.state_dict()["index"].tolist() == [30, 4, 11]
    with pytest.raises(InputError, match=r"samples without a stored answer"):
        PredictionsTeacher(said)(whole.batch(torch.tensor([5]), augment=None, seed=0, view=0))


def test_what_has_no_predictions_is_refused():
    with pytest.raises(InputError, match=r"^peers: predictions are for unaugmented samples, but augment"):
        trained(predicted=True, augment=Augment(noise=0.1))
    few = samples().subset(torch.arange(40))
    pair = circle([network(0), network(1)], [objective(), objective()], predicted=few)
    with pytest.raises(InputError, match=r"^peers: 40 samples have predictions, but a peer learns from others; every"):
        fit_together([Peer(each, samples(), training=Training(epochs=1)) for each in pair])
    with pytest.raises(ModelError, match=r"^peer: answers 2 classes, the data has 3"):
        Predictions(few).fill(nn.Linear(WIDTH, 2))
    with pytest.raises(InputError, match=r"^peers: it has only predictions, .* the features \['body'\]"):
        PredictionsTeacher(Predictions(few))(a_batch(), {"body": "0"})
    several = TensorSet.of(torch.randn(8, WIDTH), torch.zeros(8, 2), classes=2, task=MULTILABEL)
    with pytest.raises(InputError, match=r"^peers: predictions are of one label of several classes, and the labels"):
        Predictions(several)


# --------------------------------------------------------------------------------------------------------- invariances


def test_before_the_burn_in_ends_each_is_the_network_alone():
    settings = {"epochs": 2, **PLAIN}
    together = trained(2, burn_in=12, noisy=True, epochs=2)
    for number, found in enumerate(together):
        alone = network(number, noisy=True)
        fit(Distiller(alone, None, own_part(objective())), samples(), training=Training(**settings), seed=number)
        assert same([found], [alone])


@pytest.mark.thorough
def test_accumulation_changes_nothing():
    ones, others = trained(3, every=2), trained(3, every=2, accumulate=3)
    for one, other in zip(weights(ones), weights(others), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_peer_does_not_hang_on_how_the_others_draw():
    """A third peer after the other two ended their burn-in changes what they learn; its random numbers do not."""
    ends = [trained(2, burn_in=12, noisy=True)[:2], trained(3, burn_in=12, noisy=True)[:2]]
    assert same(*ends)


def test_the_callers_random_numbers_stay():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(2, noisy=True)
    after = torch.get_rng_state()
    torch.manual_seed(1)  # `network` seeds: what the trainings themselves drew is nothing
    assert not torch.equal(before, after)
    state_of_network = torch.get_rng_state()
    network(1, noisy=True)
    assert not torch.equal(state_of_network, torch.get_rng_state())


# -------------------------------------------------------------------------------------------------------------- resume


class Killed(Exception):
    """The process was killed here."""


def interrupted(monkeypatch, at, train):
    """Train, killed before the `at`-th write of all peers, or half a step later; return which writes were results."""
    count, results = 0, []

    def counting(function, note):
        def write(*arguments, **more):
            nonlocal count
            count += 1
            if note:
                results.append(count)
            if count == at:
                raise Killed
            answer = function(*arguments, **more)
            if count + 0.5 == at:
                raise Killed
            return answer

        return write

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", counting(checkpoints.write, False))
        patch.setattr("limbeck.training.weights.write_sealed", counting(checkpoints.write_sealed, True))
        with contextlib.suppress(Killed):
            train()
    return results


@pytest.mark.miniature(0)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"every": 3, "burn_in": 2}, marks=pytest.mark.slow),
        pytest.param({"every": 1, "update": "sequential"}, marks=pytest.mark.slow),
        pytest.param({"every": 3, "burn_in": 2, "predicted": True}, marks=pytest.mark.slow),
        {"every": 4, "patience": 1, "learning_rate": 3.0, "epochs": 5, "keep": "best"},
        pytest.param({"every": 5, "averaging": 0.8, "augment": Augment(noise=0.1)}, marks=pytest.mark.slow),
    ],
    ids=["stale", "sequential", "predictions", "patience", "average"],
)
def test_killed_at_any_write_they_go_on_bit_for_bit(tmp_path, monkeypatch, how):
    for module in ("checkpoints", "weights"):
        monkeypatch.setattr(f"limbeck.training.{module}.sync", lambda path: None)  # the machine itself goes on
    how = {"noisy": True, "validation": samples(20), **how}
    whole = trained(3, **how)
    often = {"checkpoint_seconds": 0.0, **how}
    results = interrupted(monkeypatch, None, lambda: trained(3, folder=tmp_path / "whole", **often))
    assert len(results) == 3
    near = {at + more for at in results for more in (0, 0.5)}
    left = set()
    for at in sorted({1, 2.5, results[0] // 2, results[0] - 1, *near}):
        folder = tmp_path / str(at)
        interrupted(monkeypatch, at, lambda folder=folder: trained(3, folder=folder, **often))
        left.add(len(list(folder.glob("*/result.json"))))
        assert same(whole, trained(3, folder=folder, **often)), at
        assert not list(folder.glob("*/checkpoints"))
    assert left == {0, 1, 2, 3}


@pytest.mark.thorough
def test_a_peer_that_ended_earlier_ended_for_good(tmp_path, monkeypatch):
    how = {
        "validation": samples(20),
        "patience": 1,
        "learning_rate": 3.0,
        "epochs": 6,
        "keep": "best",
        "folder": tmp_path,
    }
    trained(3, **how)
    steps = [state.checkpoints.read_sealed(path)["progress"][2] for path in sorted(tmp_path.glob("*/result.json"))]
    assert len(set(steps)) > 1, "the case is to have peers that end at different steps"


def test_a_finished_peer_without_the_others_cannot_be_gone_on_with(tmp_path):
    trained(2, folder=tmp_path)
    (tmp_path / "peer-1" / "result.json").unlink()
    with pytest.raises(RunError, match=r"^resume: some peers have finished, and '.*peer-1' cannot be resumed"):
        trained(2, folder=tmp_path)


def test_another_training_in_the_folder_is_refused(tmp_path):
    trained(2, folder=tmp_path)
    with pytest.raises(RunError, match=r"belongs to another training: training\.learning_rate was 0\.3"):
        trained(2, folder=tmp_path, learning_rate=0.1)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_what_is_wrong_is_one_line():
    data = samples()
    with pytest.raises(InputError, match=r"^peers: found 1, expected 2 or more"):
        circle([network(0)], [objective()])
    with pytest.raises(InputError, match=r"^method: found one that reads no teacher"):
        circle([network(0), network(1)], [methods.hard(), methods.hard()])
    with pytest.raises(InputError, match=r"^method: found only terms that read a teacher"):
        circle([network(0), network(1)], [objective(hard_weight=0.0), objective(hard_weight=0.0)])
    with pytest.raises(ModelError, match=r"^peer 2: answers 4 classes, the data has 3; give the peer 2 3 outputs"):
        fit_together([Peer(each, data) for each in circle([network(0), nn.Linear(WIDTH, 4)], [objective()] * 2)])
    pair = circle([network(0), network(1)], [objective(), objective()])
    with pytest.raises(InputError, match=r"^every: found 0"):
        fit_together([Peer(each, data) for each in pair], every=0)
    with pytest.raises(InputError, match=r"^update: found 'random'"):
        fit_together([Peer(each, data) for each in pair], update="random")
    pair[1].burn_in = 3
    with pytest.raises(InputError, match=r"^burn_in: the peers have \[0, 3\]"):
        fit_together([Peer(each, data) for each in pair])


def test_some_folders_are_none(tmp_path):
    pair = circle([network(0), network(1)], [objective(), objective()])
    peers = [Peer(pair[0], samples(), folder=tmp_path / "one"), Peer(pair[1], samples())]
    with pytest.raises(InputError, match=r"^folder: 1 of 2 peers have one"):
        fit_together(peers)


def test_the_steps_of_an_exchange():
    assert [step for step in range(9) if exchanging(step, 0, 1)] == list(range(9))
    assert [step for step in range(9) if exchanging(step, 2, 3)] == [2, 5, 8]
