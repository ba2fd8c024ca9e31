"""What every method promises, found by walking `limbeck.methods`: a new method is tested by being there."""

import copy
import dataclasses
import inspect
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import nn

from limbeck import losses, methods, models, targets
from limbeck.batch import Batch, Mix
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.tasks import REGRESSION
from limbeck.teachers import graft
from limbeck.teachers.model import ModelTeacher, state_digest
from limbeck.training import Training, fit
from small_features import ON_LAYERS
from waits import WouldWaitError, no_waiting
from walk import over

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
UNLABELLED = -100
GIVEN = {"class_subset": {"classes": (3, 1)}, "kd_rel": {"groups": (0, 0, 1, 2)}}
"""What a builder of a method on logits has to be given, or would ask the data for."""
FOR_NUMBERS = {"bounded_regression"}
"""Methods for numbers to predict; all others are for classes."""
TWO_HEADED = {"deit"}
"""Methods for students that answer with a class head and a distillation head."""
NOT_MIXED = {"crd"}
"""Methods on layers that refuse samples which are mixed with others."""
ADDED = {"activation_regularization"}
"""Methods that add to another one, on recurrent networks: tests/unit/test_activation_regularization.py."""
CASES = [(name, "mlp") for name in methods.names() if name not in {*ON_LAYERS, *ADDED}]
CASES += [(name, nets) for name, given in ON_LAYERS.items() for nets in given]
ON_NETWORKS = {*ON_LAYERS, "bss", "input_gradient"}
"""Methods that read layers, weights or gradients of networks, or ask them again."""
GRAFTED = {"simkd"}
"""Methods for a student that ends in its teacher's classifier; its own is not used."""
IN_TURN = {"factor_transfer"}
"""Methods of which a part learns before the others."""
SEVERAL = {"tinybert"}
"""Methods of several terms on layers, each with a name and a weight of its own."""
every_method = over("name", methods.names())
every_case = over("name, nets", CASES)
every_method_on_layers = over("name, nets", [(name, next(iter(given))) for name, given in ON_LAYERS.items()])


def network(width, seed, dtype=torch.float64, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes)).to(dtype)


def convolutional(width, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return models.cnn((1, 8, 8), 4, channels=(width, width + 1), batch_norm=False).to(dtype)


def transformer(width, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return models.vit((1, 4, 4), 4, patch=2, width=width, depth=2, heads=2).to(dtype)


class Encoder(nn.Module):
    """A small transformer that is called with token ids."""

    def __init__(self, width, layers, seed):
        super().__init__()
        torch.manual_seed(seed)
        sizes = {"layers": layers, "width": width, "heads": 2, "dropout": 0.0}
        self.inner = models.transformer((5,), 4, vocabulary=20, **sizes)

    def forward(self, inputs):
        return self.inner(input_ids=inputs)


class TwoHeads(nn.Module):
    """Two networks, each of which answers for one head."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs):
        heads = {"class": self.first(inputs), "distillation": self.second(inputs)}
        return Outputs(heads["class"] + heads["distillation"], heads=heads)


def pair_of(name, nets="mlp", dtype=torch.float64):
    """Return student and teacher."""
    if nets == "cnn":
        student, teacher = convolutional(3, 1, dtype), convolutional(5, 2, dtype)
        if name in GRAFTED:
            student = graft(student, teacher, torch.zeros(2, 1, 8, 8, dtype=dtype), layers="stage1").to(dtype)
        return student, teacher
    if nets == "vit":
        return transformer(4, 1, dtype), transformer(6, 2, dtype)
    if nets == "encoder":
        return Encoder(4, 1, 1).to(dtype), Encoder(6, 2, 2).to(dtype)
    classes = 2 if name == "class_subset" else 4
    student = network(8, 1, dtype, classes)
    if name in TWO_HEADED:
        student = TwoHeads(student, network(8, 4, dtype, classes))
    return student, network(16, 2, dtype)


def given_to(name, nets="mlp"):
    return ON_LAYERS[name][nets] if name in ON_LAYERS else GIVEN.get(name, {})


def objective_of(name, nets="mlp"):
    return methods.builder(name)(**given_to(name, nets))


def batch_of(name, nets="mlp", size=8, dtype=torch.float64, *, masked=False):
    generator = torch.Generator().manual_seed(5)
    shape = {"mlp": (3,), "cnn": (1, 8, 8), "vit": (1, 4, 4), "encoder": (5,)}[nets]
    inputs = torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype)
    if nets == "encoder":
        inputs = torch.randint(20, (size, *shape), generator=generator)
    mask = torch.arange(size) % 3 > 0 if masked else None
    if name in FOR_NUMBERS:
        labels = torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)
        labels[1::4] = torch.nan
        return Batch.of(inputs, labels, mask=mask, task=REGRESSION)
    labels = torch.randint(2, (size,), generator=generator)
    labels[1::4] = UNLABELLED
    return Batch.of(inputs, labels, mask=mask)


def distiller_of(name, nets="mlp", dtype=torch.float64):
    """A method with the defaults of its builder, on networks of its own."""
    student, teacher = pair_of(name, nets, dtype)
    distiller = Distiller(student, ModelTeacher(teacher), objective_of(name, nets).to(dtype))
    distiller.build(batch_of(name, nets, dtype=dtype), seed=3)
    distiller.step = 0
    return distiller.train()


def learned(distiller):
    return [parameter for parameter in distiller.parameters() if parameter.requires_grad]


def value_and_gradient(distiller, batch):
    distiller.zero_grad()
    loss = distiller(batch, 0)
    loss.total.backward()
    if (IN_TURN | GRAFTED) & set(distiller.objective.terms):
        for parameter in learned(distiller):
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = [parameter.grad for parameter in learned(distiller)]
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
    nets = next(iter(ON_LAYERS.get(name, ["mlp"])))
    assert set(needed) <= set(given_to(name, nets)), f"{name} takes {needed}: teach this test to give them"
    assert isinstance(objective_of(name, nets), Objective)
    assert len(objective_of(name, nets).terms) > 0
    parameters = set(inspect.signature(builder).parameters)
    if name in ON_NETWORKS - SEVERAL:
        assert parameters >= BESIDE - (set() if name in ON_LAYERS else {"layers"})
        assert name in objective_of(name, nets).terms
    assert len(parameters - BESIDE) <= 8


OTHER = {
    "alpha": 0.7, "hard_weight": 0.25, "soft_weight": 0.75, "temperature": 7.0, "standardise": True, "margin": 0.5,
    "seed": 7, "groups": (0, 1, 1, 1), "masses": (0.5, 0.3, 0.2), "power": 0.9, "tau": 0.9, "k": 2, "share": 0.75,
    "epsilon": 0.3, "label_smoothing": 0.3, "confidence": 0.95, "softening": 9.0, "classes": (2, 0), "beta": 2.0,
    "divergence": losses.divergence("js"), "target": targets.TopK(k=2), "inter_weight": 3.0, "intra_weight": 3.0,
    "tau_squared": True, "zero_mean": True, "decision": False, "layers": ["pool", "stage1"], "weight": 0.375,
    "weighted": False,
    "norm": "sum", ("attention_transfer", "norm"): "l2", ("hint", "norm"): "half_sum", "per": "anchor", "angle": 3.0,
    "distinct": True, "anchors": 2, "diagonal": False, "kernel": "linear", "gamma": 0.5, "order": 3, "embed": 5,
    ("correlation_congruence", "kernel"): "bilinear", "projection": "conv_bn", ("fsp", "projection"): "none",
    "pooling": "mean", "variance": 2.0, ("ofd", "batch_norms"): ["stem.1", "stage1.1"], "dimension": 7, "negatives": 2,
    "negatives_of": "other_classes", "contrast_temperature": 0.2, "momentum": 0.25, "masked": 0.5, "mask": "positions",
    "delta": 0.5, "size": 3, "normalise": True, "fuse": False, "preactivation": "both", "rate": 0.25,
    "paraphraser_steps": 3, "error": "squared", "of": "attention", ("input_gradient", "of"): "random", "directions": 2,
    "candidates": 5, "steps": 3, ("crd", "layers"): "stage1", ("srrl", "layers"): "stage1",
    "top": 3, "decay": 3.0, "mu": 0.5, "samples": 7, "start": 3,
    "embedding_weight": 0.5, "hidden_weight": 0.5, "attention_weight": 0.5, "match": "top", "heads": "mean",
    "attention": "probabilities", "centre": "rows", ("tinybert", "projection"): "each", "relation_heads": 4,
    ("tinybert", "layers"): {"layers.0": "layers.1"}, ("minilm", "layers"): {"layers.0": "layers.1"},
    ("distilbert", "layers"): {"layers.0": "layers.1"}, ("distilbert", "projection"): "linear", "compare": "pca",
    ("sentence_embedding", "pooling"): "first",
    "ar": 3.0, "tar": 3.0, "layer": "stage1",
    "n": 3, "soft": True, ("darkrank", "beta"): 1.0, ("darkrank", "normalise"): False,
}  # fmt: skip
"""By its name, and that of the method where it needs it, a value of an argument that is not the one given above."""
BESIDE = {"layers", "weight", "hard_weight", "soft_weight", "temperature"}
"""What every builder of a method on layers takes."""


@every_method
def test_every_argument_of_a_method_is_heeded(name):
    builder, given = methods.builder(name), given_to(name, next(iter(ON_LAYERS.get(name, ["mlp"]))))
    for argument in inspect.signature(builder).parameters:
        beside = {"decision": False} if (name, argument) == ("deit", "temperature") else {}
        beside |= {"soft_weight": 0.5} if name in ON_NETWORKS and argument == "temperature" else {}
        beside |= {"of": "random"} if argument == "directions" else {}
        changed = OTHER[name, argument] if (name, argument) in OTHER else OTHER[argument]
        usual, other = builder(**{**given, **beside}), builder(**{**given, **beside, argument: changed})
        assert repr(other) != repr(usual), argument


@every_case
@over("dtype, masked", zip(DTYPES, [True, False, False, True], strict=True))
def test_loss_and_gradient_are_finite_in_every_precision(name, nets, masked, dtype):
    loss, gradient = value_and_gradient(
        distiller_of(name, nets, dtype), batch_of(name, nets, dtype=dtype, masked=masked)
    )
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.thorough
@every_case
@over("masked", [False, True])
def test_an_empty_batch_has_loss_zero_and_gradient_zero(name, nets, masked):
    loss, gradient = value_and_gradient(distiller_of(name, nets), batch_of(name, nets, 0, masked=masked))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.thorough
@every_case
def test_a_batch_of_padding_has_loss_zero_and_gradient_zero(name, nets):
    batch = batch_of(name, nets)
    batch.mask = torch.zeros(8, dtype=torch.bool)
    loss, gradient = value_and_gradient(distiller_of(name, nets), batch)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.thorough
@every_case
def test_a_batch_without_labels_has_a_finite_loss(name, nets):
    for labels in (None, batch_of(name, nets).task.without_labels(batch_of(name, nets).labels)):
        batch = batch_of(name, nets)
        batch.labels = labels
        loss, gradient = value_and_gradient(distiller_of(name, nets), batch)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.thorough
@every_case
def test_the_same_seed_gives_the_same_loss_and_gradient(name, nets):
    first, second = (value_and_gradient(distiller_of(name, nets), batch_of(name, nets)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.thorough
@every_case
def test_the_order_of_the_batch_changes_nothing(name, nets):
    distiller, batch = distiller_of(name, nets), batch_of(name, nets, masked=True)
    order = torch.randperm(8)
    shuffled = part_of(batch, order)
    loss, gradient = value_and_gradient(distiller, batch)
    other_loss, other_gradient = value_and_gradient(distiller_of(name, nets), shuffled)
    near = {"rtol": 1e-12, "atol": 1e-14} if nets == "mlp" else {"rtol": 1e-9, "atol": 1e-10}  # weights up to 30,000
    torch.testing.assert_close(other_loss, loss, **near)
    torch.testing.assert_close(other_gradient, gradient, **near)


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


@pytest.mark.thorough
@every_case
def test_cutting_the_batch_changes_nothing_unless_a_term_declares_to_relate_examples(name, nets):
    if name == "bss":  # which has nothing to move here: tests/unit/test_layer_methods.py
        pytest.skip()
    distiller, batch = distiller_of(name, nets), batch_of(name, nets, masked=True)
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # of a projection, which relates what is in a part
            module.eval()
    loss, gradient = value_and_gradient(distiller, batch)
    parts = [part_of(batch, rows) for rows in (slice(0, 3), slice(3, 4), slice(4, 8))]
    counts = [distiller.objective.counts(part) for part in parts]
    whole = {term: sum(int(count[term]) for count in counts) for term in counts[0]}
    distiller.zero_grad()
    losses = []
    for part in parts:
        losses.append(distiller(part, 0, whole))
        losses[-1].total.backward()
    cut = torch.cat(
        [(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in learned(distiller)]
    )
    same = torch.allclose(cut, gradient, rtol=1e-10, atol=1e-13 if nets == "mlp" else 1e-10)
    assert same != any(term.relates_examples for term in distiller.objective.terms.values())
    if same:
        torch.testing.assert_close(sum(part.total.detach() for part in losses), loss, rtol=1e-10, atol=1e-14)


@pytest.mark.thorough
@every_case
def test_the_batch_is_read_and_not_changed(name, nets):
    batch = batch_of(name, nets, masked=True)
    before = copy.deepcopy(batch)
    value_and_gradient(distiller_of(name, nets), batch)
    for field in ("index", "view", "inputs", "labels", "mask"):
        torch.testing.assert_close(getattr(batch, field), getattr(before, field), rtol=0, atol=0, equal_nan=True)


@pytest.mark.thorough
@every_case
def test_the_state_of_the_objective_survives_a_file_without_pickle(name, nets):
    distiller, fresh = distiller_of(name, nets), distiller_of(name, nets)
    for parameter in fresh.objective.parameters():
        nn.init.zeros_(parameter)
    fresh.objective.load_state_dict(load(save(distiller.objective.state_dict())), strict=True)
    assert state_digest(fresh.objective) == state_digest(distiller.objective)
    first, second = (value_and_gradient(each, batch_of(name, nets)) for each in (distiller, fresh))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.thorough
@every_case
def test_training_lowers_the_loss_and_leaves_the_teacher_untouched(name, nets):
    distiller = distiller_of(name, nets)
    digest = distiller.teacher.fingerprint()
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.02)
    before, _ = value_and_gradient(distiller, batch_of(name, nets))
    for _ in range(30 if nets == "mlp" else 6):
        value_and_gradient(distiller, batch_of(name, nets))
        optimizer.step()
    after, _ = value_and_gradient(distiller, batch_of(name, nets))
    assert after < before
    assert distiller.teacher.fingerprint() == digest
    assert not any(module.training for module in distiller.teacher.model.modules())
    assert all(parameter.grad is None for parameter in distiller.teacher.model.parameters())


@every_method_on_layers
def test_samples_that_are_mixed_are_taken_unless_the_method_says_that_it_refuses_them(name, nets):
    distiller, batch = distiller_of(name, nets), batch_of(name, nets)
    batch.mix = Mix(torch.arange(8).flip(0), batch.labels.flip(0), torch.full((8,), 0.75))
    if name in NOT_MIXED:
        with pytest.raises(InputError, match="mixed"):
            distiller(batch, 0)
        return
    loss, gradient = value_and_gradient(distiller, batch)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.thorough
@every_method_on_layers
def test_a_training_is_resumed_bit_for_bit_and_leaves_the_objective_behind(name, nets, tmp_path):
    inputs = batch_of(name, nets, 16, torch.float32).inputs
    samples = TensorSet.of(inputs, torch.arange(16) % 4, classes=4)

    def trained(folder, stop=None):
        student, teacher = pair_of(name, nets, torch.float32)
        distiller = Distiller(student, ModelTeacher(teacher), objective_of(name, nets))

        def watch(look):
            if look.epoch == stop:
                raise KeyboardInterrupt

        settings = Training(epochs=2, batch_size=8, optimizer="adamw", learning_rate=1e-3, checkpoint_seconds=0.0)
        return fit(distiller, samples, training=settings, folder=folder, watch=watch), distiller

    _, whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", stop=1)
    _, resumed = trained(tmp_path / "run")
    expected = whole.state_dict()
    assert expected.keys() == resumed.state_dict().keys()
    for key, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert set(load_file(tmp_path / "run" / "student.safetensors")) == set(whole.student.state_dict())


WAITS = {
    "bss": "as many samples are moved as both networks get right",
    "crd": "its banks are checked, and classes are drawn from one by one",
    "kd_rel": "the groups of the classes lie on the host",
    "ranking_distillation": "users have unlike numbers of items",
}
"""Methods that read something back in every step, and what."""
DROPS_ROWS = {"correlation_congruence", "darkrank", "dist", "fsp", "pkt", "rkd", "similarity_preserving"}
"""Methods on the relations of examples: those that a mask excludes are dropped, and the host must know how many."""


@pytest.mark.thorough
@every_case
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_no_step_waits_for_the_device(name, nets, masked, monkeypatch):
    """Between the batch's arrival on a device and the optimizer's update nothing is read back from it."""
    student, teacher = pair_of(name, nets, torch.float32)
    distiller = Distiller(student, teacher, objective_of(name, nets))
    batch = batch_of(name, nets, dtype=torch.float32, masked=masked)
    distiller.build(batch)
    distiller.train()
    distiller(batch, 0).total.backward()  # what is made once, from the first batch, may be looked at
    waits = name in WAITS or (masked and name in DROPS_ROWS)
    with pytest.raises(WouldWaitError) if waits else nullcontext(), no_waiting(monkeypatch):
        distiller(batch, 1).total.backward()


@pytest.mark.thorough
@every_case
def test_what_is_not_looked_at_on_a_device_gives_the_same_loss(name, nets, monkeypatch):
    student, teacher = pair_of(name, nets, torch.float32)
    distiller = Distiller(student, teacher, objective_of(name, nets))
    batches = [batch_of(name, nets, dtype=torch.float32, masked=masked) for masked in (False, True)]
    batches.append(batch_of(name, nets, dtype=torch.float32, masked=True))
    batches[-1].mask = torch.zeros_like(batches[-1].mask)
    distiller.build(batches[0])
    distiller.train()
    for batch in batches:
        expected = copy.deepcopy(distiller)(batch, 0)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
            found = copy.deepcopy(distiller)(batch, 0)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-6, atol=1e-7)
