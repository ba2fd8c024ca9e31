"""Be your own teacher: the exits, their loss, early exit by confidence, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.batch import UNLABELLED, Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.evaluation import early_exit, early_exit_curve, measure, predict
from limbeck.experiment.parts import prepare
from limbeck.losses import cross_entropy, kl
from limbeck.models import cnn, mlp
from limbeck.models.layers import DEEPEST, ExitOf, WithExits
from limbeck.results.finished import FinishedRun
from limbeck.schemes.own_teacher import OwnTeacher
from walk import over

SCHEME = {"name": "own_teacher", "exits": ["stage1"]}
STUDENT = {"model": {"kind": "mlp", "hidden": [16, 12]}}
HARD = {"name": "hard"}


def network():
    torch.manual_seed(1)
    base = mlp((8,), 3, hidden=(7, 5))
    return WithExits(base, {"exit_1": "stage1", "exit_2": "stage2"}, torch.zeros(1, 8), 3)


# ------------------------------------------------------------------------------------------------------------ the exits


def test_exits_read_the_modules_that_are_named():
    model, inputs = network(), torch.randn(6, 8)
    outputs = model(inputs)
    first = torch.relu(model.base.stage1.linear(inputs))
    second = torch.relu(model.base.stage2.linear(first))
    torch.testing.assert_close(outputs.logits, model.base.fc(second))
    torch.testing.assert_close(outputs.features[DEEPEST], second)
    for name, feature in (("exit_1", first), ("exit_2", second)):
        vector = torch.relu(model.exits[name].adapter[0](feature))
        torch.testing.assert_close(outputs.features[name], vector)
        torch.testing.assert_close(outputs.heads[name], model.exits[name].classifier(vector))
        torch.testing.assert_close(ExitOf(model, name)(inputs), outputs.heads[name])


def test_exits_of_a_convolutional_network_average_over_places():
    base = cnn((1, 8, 8), 4, channels=(3, 6))
    model = WithExits(base, {"exit_1": "stem"}, torch.zeros(1, 1, 8, 8), 4).eval()
    inputs = torch.randn(2, 1, 8, 8)
    feature = base.stem(inputs)
    assert feature.ndim == 4
    vector = torch.relu(model.exits["exit_1"].adapter[0](feature.sum((2, 3)) / feature[0, 0].numel()))
    torch.testing.assert_close(model(inputs).features["exit_1"], vector)
    assert vector.shape == (2, 6)


def test_the_cost_of_an_exit_is_what_runs_until_it_and_the_heads_before_it():
    model = network()
    head = 2 * (7 * 5 + 5 * 3), 2 * (5 * 5 + 5 * 3)
    first, second = 2 * 8 * 7, 2 * (8 * 7 + 7 * 5)
    whole = second + 2 * 5 * 3
    assert model.forward_flops(torch.zeros(1, 8)) == [first + head[0], second + sum(head), whole + sum(head)]


class Detour(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 5), nn.Linear(4, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        return self.fc(self.used(x))


def test_a_module_that_is_never_called_or_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"module 'idle' was not called in the forward pass; name another"):
        WithExits(Detour(), {"exit_1": "idle"}, torch.zeros(1, 4), 3)
    with pytest.raises(ModelError, match=r"the model has no module 'usd'; did you mean 'used'"):
        WithExits(Detour(), {"exit_1": "usd"}, torch.zeros(1, 4), 3)
    with pytest.raises(ModelError, match=r"^exits: the network has no linear layer with 9 outputs"):
        WithExits(Detour(), {"exit_1": "used"}, torch.zeros(1, 4), 9)


# ------------------------------------------------------------------------------------------------------------- the loss


def test_the_loss_is_that_of_the_paper_and_its_gradient_spares_the_deepest_exit():
    model = network().double()
    inputs, labels = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, UNLABELLED, 1])
    scheme = OwnTeacher(exits=("stage1", "stage2"), temperature=3.0, alpha=0.3, hint_weight=0.05)
    from limbeck import methods

    distiller = Distiller(model, None, scheme._objective(methods.hard()))
    loss = distiller(Batch.of(inputs, labels))
    outputs = model(inputs)
    wanted = cross_entropy(outputs.logits, labels)
    for name in ("exit_1", "exit_2"):
        wanted = wanted + 0.7 * cross_entropy(outputs.heads[name], labels)
        wanted = wanted + 0.3 * 9 * kl(outputs.heads[name], outputs.logits.detach(), temperature=3.0)
        distance = (outputs.features[name] - outputs.features[DEEPEST].detach()) ** 2
        wanted = wanted + 0.05 * distance.sum() / 6
    torch.testing.assert_close(loss.total, wanted)
    (loss.total - cross_entropy(outputs.logits, labels)).backward()
    assert float(model.base.fc.weight.grad.abs().max()) < 1e-12  # nothing reaches the deepest classifier
    assert float(model.base.stage1.linear.weight.grad.abs().max()) > 1e-3


def test_terms_of_weight_0_are_left_out():
    from limbeck import methods

    plain = OwnTeacher(exits=("stage1",), alpha=0.0, hint_weight=0.0)._objective(methods.hard(label_smoothing=0.1))
    assert list(plain.terms) == ["hard", "exit_1_hard"]
    assert plain.terms["exit_1_hard"].label_smoothing == 0.1
    assert list(OwnTeacher(exits=("stage1",), alpha=1.0)._objective(methods.hard()).terms) == [
        "hard",
        "exit_1_soft",
        "exit_1_hint",
    ]


# ----------------------------------------------------------------------------------------------------------- early exit


@given(st.integers(1, 4), st.integers(1, 12), st.floats(0.0, 1.1))
def test_a_sample_leaves_at_the_first_exit_that_is_sure(exits, size, threshold):
    logits = [torch.randn(size, 3, dtype=torch.float64) for _ in range(exits)]
    classes, leaves = early_exit(logits, threshold)
    for sample in range(size):
        wanted = exits - 1
        for number in range(exits - 1):
            powers = [math.exp(value) for value in logits[number][sample].tolist()]
            if max(powers) / sum(powers) >= threshold:
                wanted = number
                break
        assert int(leaves[sample]) == wanted
        assert int(classes[sample]) == int(logits[wanted][sample].argmax())


def test_the_curve_goes_from_the_first_exit_to_the_last():
    logits, labels = [torch.randn(50, 4) for _ in range(3)], torch.randint(4, (50,))
    labels[::7] = UNLABELLED
    curve = early_exit_curve(logits, labels, [10, 25, 40])
    assert (curve[0].flops, curve[-1].flops) == (10, 40)
    assert curve[0].accuracy == pytest.approx(measure(logits[0], labels).accuracy)
    assert curve[-1].accuracy == pytest.approx(measure(logits[2], labels).accuracy)
    costs = [point.flops for point in curve]
    assert costs == sorted(costs)
    for point in curve:
        assert sum(point.shares) == pytest.approx(1.0)
        assert point.flops == pytest.approx(sum(s * c for s, c in zip(point.shares, [10, 25, 40], strict=True)))


@over(
    ("call", "said"),
    [
        (lambda: early_exit([], 0.5), "logits: found none"),
        (lambda: early_exit([torch.zeros(1, 2)], -0.5), "threshold: found -0.5"),
        (lambda: early_exit_curve([torch.zeros(1, 2)], torch.zeros(1), [1, 2]), "flops: found 2 for 1 exits"),
        (lambda: early_exit_curve([torch.zeros(1, 2)], torch.tensor([UNLABELLED]), [1]), "labels: found no labelled"),
    ],
    ids=["none", "threshold", "costs", "labels"],
)
def test_early_exit_refuses(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(said)


# ------------------------------------------------------------------------------------------------------------- a recipe


def test_a_recipe_measures_every_exit_and_reads_them_back(tiny, tmp_path, killed_everywhere, same_weights):
    from limbeck.cli.distill import run as command
    from limbeck.report.gather import gather
    from limbeck.runs import RunFolder

    recipe = tiny(scheme=SCHEME, student=STUDENT, method=HARD)
    folder = RunFolder.create(tmp_path / "runs", "own", recipe.to_yaml(), ["test"])
    outcome = command(recipe, folder, quiet=True)
    assert list(outcome.roles) == ["teacher", "alone", "exit_1", "distilled"]
    assert outcome.roles["exit_1"].label == "exit 1, after stage1"
    assert outcome.roles["distilled"].compute["teachers"] == 0
    run = FinishedRun.read(folder.path)
    for role in ("exit_1", "distilled"):
        logits = predict(run.model(role, 0), run.parts.test)
        assert measure(logits, run.parts.test.labels).errors == outcome.seeds[0].metrics[role].errors
    curve = outcome.figures[0]["early_exit"]
    assert curve[0]["accuracy"] == pytest.approx(outcome.seeds[0].metrics["exit_1"].accuracy)
    assert curve[-1]["accuracy"] == pytest.approx(outcome.seeds[0].distilled.accuracy)
    assert len([note for note in outcome.notes if note.startswith("Leaving at the first exit")]) == 3
    assert gather(folder.path).curves["exit_1"] == {}
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "distilled-0"]
    same_weights(folder.path, killed, trained)


def test_the_network_starts_as_the_student_alone_does(tiny):
    recipe = tiny(scheme=SCHEME, student=STUDENT, method=HARD)
    from limbeck.experiment.building import SeedBuilder

    builder = SeedBuilder(recipe, prepare(recipe), 0)
    one, two, alone = (
        recipe.scheme.build("distilled", builder),
        recipe.scheme.build("distilled", builder),
        builder.student(),
    )
    for name, value in alone.state_dict().items():
        assert torch.equal(one.base.state_dict()[name], value)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "scheme.exits: found [], expected paths of the student's modules, each once"),
        ({"exits": ["stage1", "stage1"]}, "scheme.exits: found ['stage1', 'stage1'], expected paths"),
        ({"exits": ["stage1"], "temperature": 0.0}, "scheme.temperature: found 0.0"),
        ({"exits": ["stage1"], "alpha": 1.5}, "scheme.alpha: found 1.5"),
        ({"exits": ["stage1"], "hint_weight": -1.0}, "scheme.hint_weight: found -1.0"),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(scheme={"name": "own_teacher", **keys}, method=HARD)
    assert str(caught.value).startswith(said)


def test_recipes_it_cannot_run_are_refused(tiny, refusal):
    assert refusal(tiny(scheme=SCHEME, student=STUDENT)) == (
        "scheme.name: own_teacher adds its own loss to that of the labels, but found the method 'kd'; set hard"
    )
    nowhere = tiny(scheme={**SCHEME, "exits": ["layer1"]}, student=STUDENT, method=HARD)
    assert refusal(nowhere).startswith("scheme.exits: the model has no module 'layer1'; ")
