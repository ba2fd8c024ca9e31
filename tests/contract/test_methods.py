"""What every method promises, found by walking `limbeck.methods`: a new method is tested by being there."""

import copy
import dataclasses
import inspect

import torch
from safetensors.torch import load, save
from torch import nn

from limbeck import losses, methods, targets
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.tasks import REGRESSION
from limbeck.teachers.model import ModelTeacher, state_digest
from walk import over

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
UNLABELLED = -100
GIVEN = {"class_subset": {"classes": (3, 1)}, "kd_rel": {"groups": (0, 0, 1, 2)}}
"""What a builder has to be given, or would ask the data for."""
FOR_NUMBERS = {"bounded_regression"}
"""Methods for numbers to predict; all others are for classes."""
TWO_HEADED = {"deit"}
"""Methods for students that answer with a class head and a distillation head."""
every_method = over("name", methods.names())


def network(width, seed, dtype=torch.float64, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes)).to(dtype)


class TwoHeads(nn.Module):
    """Two networks, each of which answers for one head."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs):
        heads = {"class": self.first(inputs), "distillation": self.second(inputs)}
        return Outputs(heads["class"] + heads["distillation"], heads=heads)


def student_of(name, dtype, classes):
    student = network(8, 1, dtype, classes)
    return TwoHeads(student, network(8, 4, dtype, classes)) if name in TWO_HEADED else student


def objective_of(name):
    return methods.builder(name)(**GIVEN.get(name, {}))


def batch_of(name, size=8, dtype=torch.float64, *, masked=False):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(size, 3, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.arange(size) % 3 > 0 if masked else None
    if name in FOR_NUMBERS:
        labels = torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)
        labels[1::4] = torch.nan
        return Batch.of(inputs, labels, mask=mask, task=REGRESSION)
    labels = torch.randint(2, (size,), generator=generator)
    labels[1::4] = UNLABELLED
    return Batch.of(inputs, labels, mask=mask)


def distiller_of(name, dtype=torch.float64):
    """A method with the defaults of its builder, on networks of its own."""
    objective = objective_of(name).to(dtype)
    classes = 2 if name == "class_subset" else 4
    distiller = Distiller(student_of(name, dtype, classes), ModelTeacher(network(16, 2, dtype)), objective)
    torch.manual_seed(3)
    distiller.build(batch_of(name, dtype=dtype))
    return distiller.train()


def value_and_gradient(distiller, batch):
    distiller.zero_grad()
    loss = distiller(batch)
    loss.total.backward()
    gradients = [parameter.grad for parameter in distiller.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return loss.total.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_the_walk_finds_the_methods():
    assert {"hard", "kd", "logit_matching"} <= set(methods.names())
    assert set(methods.names()) <= set(methods.__all__)
    assert methods.names() == sorted(methods.names())


@every_method
def test_the_card_is_complete_and_bears_the_name_of_its_file(name):
    card = methods.card(name)
    assert isinstance(card, methods.Card)
    for field in dataclasses.fields(card):
        assert getattr(card, field.name), field.name
    assert card.name == name
    assert 1950 < card.year < 2100
    assert card.source.startswith("https://")
    assert all("\n" not in str(value) for value in dataclasses.astuple(card))


@every_method
def test_the_builder_bears_the_name_of_its_file_and_works_with_few_arguments(name):
    builder = methods.builder(name)
    assert builder.__name__ == name
    assert builder is getattr(methods, name)
    needed = [each.name for each in inspect.signature(builder).parameters.values() if each.default is each.empty]
    assert set(needed) <= set(GIVEN.get(name, {})), f"{name} takes {needed}: teach this test to give them"
    assert isinstance(objective_of(name), Objective)
    assert len(objective_of(name).terms) > 0
    assert len(inspect.signature(builder).parameters) <= 8


OTHER = {
    "alpha": 0.7, "hard_weight": 0.25, "soft_weight": 0.75, "temperature": 7.0, "standardise": True, "margin": 0.5,
    "seed": 7, "groups": (0, 1, 1, 1), "masses": (0.5, 0.3, 0.2), "power": 0.9, "tau": 0.9, "k": 2, "share": 0.75,
    "epsilon": 0.3, "label_smoothing": 0.3, "confidence": 0.95, "softening": 9.0, "classes": (2, 0), "beta": 2.0,
    "divergence": losses.divergence("js"), "target": targets.TopK(k=2), "inter_weight": 3.0, "intra_weight": 3.0,
    "tau_squared": True, "zero_mean": True, "decision": False,
}  # fmt: skip
"""By its name, a value of an argument that is not its default."""


@every_method
def test_every_argument_of_a_method_is_heeded(name):
    builder, given = methods.builder(name), GIVEN.get(name, {})
    for argument in inspect.signature(builder).parameters:
        beside = {"decision": False} if (name, argument) == ("deit", "temperature") else {}
        usual, other = builder(**{**given, **beside}), builder(**{**given, **beside, argument: OTHER[argument]})
        assert repr(other) != repr(usual), argument


@every_method
@over("dtype, masked", zip(DTYPES, [True, False, False, True], strict=True))
def test_loss_and_gradient_are_finite_in_every_precision(name, masked, dtype):
    loss, gradient = value_and_gradient(distiller_of(name, dtype), batch_of(name, dtype=dtype, masked=masked))
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@every_method
@over("masked", [False, True])
def test_an_empty_batch_has_loss_zero_and_gradient_zero(name, masked):
    loss, gradient = value_and_gradient(distiller_of(name), batch_of(name, 0, masked=masked))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_method
def test_a_batch_of_padding_has_loss_zero_and_gradient_zero(name):
    batch = batch_of(name)
    batch.mask = torch.zeros(8, dtype=torch.bool)
    loss, gradient = value_and_gradient(distiller_of(name), batch)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_method
def test_a_batch_without_labels_has_a_finite_loss(name):
    for labels in (None, batch_of(name).task.without_labels(batch_of(name).labels)):
        batch = batch_of(name)
        batch.labels = labels
        loss, gradient = value_and_gradient(distiller_of(name), batch)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@every_method
def test_the_same_seed_gives_the_same_loss_and_gradient(name):
    first, second = (value_and_gradient(distiller_of(name), batch_of(name)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@every_method
def test_the_order_of_the_batch_changes_nothing(name):
    distiller, batch = distiller_of(name), batch_of(name, masked=True)
    order = torch.randperm(8)
    shuffled = part_of(batch, order)
    loss, gradient = value_and_gradient(distiller, batch)
    other_loss, other_gradient = value_and_gradient(distiller, shuffled)
    torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-12, atol=1e-14)


def part_of(batch, rows):
    mask = None if batch.mask is None else batch.mask[rows]
    return dataclasses.replace(
        batch,
        index=batch.index[rows],
        view=batch.view[rows],
        inputs=batch.inputs[rows],
        labels=batch.labels[rows],
        mask=mask,
    )


@every_method
def test_cutting_the_batch_changes_nothing_unless_a_term_declares_to_relate_examples(name):
    distiller, batch = distiller_of(name), batch_of(name, masked=True)
    loss, gradient = value_and_gradient(distiller, batch)
    parts = [part_of(batch, rows) for rows in (slice(0, 3), slice(3, 4), slice(4, 8))]
    counts = [distiller.objective.counts(part) for part in parts]
    whole = {term: sum(int(count[term]) for count in counts) for term in counts[0]}
    distiller.zero_grad()
    losses = [distiller(part, counts=whole) for part in parts]
    for part in losses:
        part.total.backward()
    cut = torch.cat([parameter.grad.flatten() for parameter in distiller.parameters()])
    same = torch.allclose(cut, gradient, rtol=1e-10, atol=1e-13)
    assert same != any(term.relates_examples for term in distiller.objective.terms.values())
    if same:
        torch.testing.assert_close(sum(part.total.detach() for part in losses), loss, rtol=1e-12, atol=1e-14)


@every_method
def test_the_batch_is_read_and_not_changed(name):
    batch = batch_of(name, masked=True)
    before = copy.deepcopy(batch)
    value_and_gradient(distiller_of(name), batch)
    for field in ("index", "view", "inputs", "labels", "mask"):
        torch.testing.assert_close(getattr(batch, field), getattr(before, field), rtol=0, atol=0, equal_nan=True)


@every_method
def test_the_state_of_the_objective_survives_a_file_without_pickle(name):
    distiller, fresh = distiller_of(name), distiller_of(name)
    for parameter in fresh.objective.parameters():
        nn.init.zeros_(parameter)
    fresh.objective.load_state_dict(load(save(distiller.objective.state_dict())), strict=True)
    assert state_digest(fresh.objective) == state_digest(distiller.objective)
    first, second = (value_and_gradient(each, batch_of(name)) for each in (distiller, fresh))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@every_method
def test_training_lowers_the_loss_and_leaves_the_teacher_untouched(name):
    distiller = distiller_of(name)
    digest = distiller.teacher.fingerprint()
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.02)
    before, _ = value_and_gradient(distiller, batch_of(name))
    for _ in range(30):
        value_and_gradient(distiller, batch_of(name))
        optimizer.step()
    after, _ = value_and_gradient(distiller, batch_of(name))
    assert after < before
    assert distiller.teacher.fingerprint() == digest
    assert not any(module.training for module in distiller.teacher.model.modules())
    assert all(parameter.grad is None for parameter in distiller.teacher.model.parameters())
