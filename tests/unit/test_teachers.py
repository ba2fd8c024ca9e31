"""Teachers that are networks: ensembles, their class vectors, and subsets of their classes."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from limbeck import losses, methods, models, targets
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, run_model
from limbeck.teacher import ClassVectors, Teacher
from limbeck.teachers import (
    ArrayTeacher,
    EnsembleTeacher,
    MeanOfModels,
    ModelTeacher,
    RestrictedModel,
    StoredTeacher,
    store,
)
from limbeck.training import fit
from small_teachers import CLASSES, SIZE, network, samples_of, whole
from walk import over, pairs


def ensemble_of(count=3, **settings):
    return EnsembleTeacher([ModelTeacher(network(seed, width=4 + seed)) for seed in range(count)], **settings)


# ------------------------------------------------------------------------------------------------------------ ensembles


@over("weights, mean, temperature", pairs([None, (0.2, 0.5, 0.3)], ["arithmetic", "geometric"], [1.0, 4.0]))
def test_an_ensemble_answers_the_mean_of_its_members_at_any_temperature(weights, mean, temperature):
    ensemble, batch = ensemble_of(weights=weights, mean=mean), whole(samples_of())
    outputs = ensemble(batch)
    each = weights or [1 / 3] * 3
    logits = [member.model(batch.inputs).double() for member in ensemble.members]
    if mean == "arithmetic":
        expected = sum(w * torch.softmax(v / temperature, 1) for w, v in zip(each, logits, strict=True))
    else:
        expected = torch.softmax(sum(w * v for w, v in zip(each, logits, strict=True)) / temperature, 1)
    found = targets.softened(outputs, temperature).log_probs.exp()
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    if temperature == 1.0:
        torch.testing.assert_close(outputs.logits, targets.softened(outputs, 1.0).log_probs)
    assert not outputs.logits.requires_grad
    assert isinstance(ensemble, Teacher)


def test_softening_an_ensembles_logits_would_be_another_distribution():
    outputs = ensemble_of()(whole(samples_of()))
    wrong = losses.soften(outputs.logits, 4.0).log_probs
    right = targets.softened(outputs, 4.0).log_probs
    assert (wrong - right).abs().max() > 1e-3


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_an_ensemble_of_one_or_of_equals_is_that_teacher(mean):
    batch, alone = whole(samples_of()), ModelTeacher(network())
    plain = torch.log_softmax(alone(batch).logits, 1)
    for members in ([alone], [alone, ModelTeacher(copy.deepcopy(alone.model)), alone]):
        outputs = EnsembleTeacher(members, mean=mean)(batch)
        torch.testing.assert_close(outputs.logits, plain)
        softened = targets.softened(outputs, 4.0).log_probs
        torch.testing.assert_close(softened, losses.soften(alone(batch).logits, 4.0).log_probs)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_stored_ensemble_is_the_live_one_member_by_member(mean):
    samples, ensemble = samples_of(), ensemble_of(weights=(0.2, 0.5, 0.3), mean=mean)
    stored = store(ensemble, samples.subset(torch.tensor([7, 2, 5, 11, 0])), batch_size=2)
    batch = samples.batch(torch.tensor([0, 5, 11]), augment=None, seed=0, view=0)
    live, kept = ensemble(batch), stored(batch)
    torch.testing.assert_close(kept.logits, live.logits)
    torch.testing.assert_close(kept.members.logits, live.members.logits)
    assert (kept.members.weights, kept.members.mean) == (live.members.weights, live.members.mean)
    torch.testing.assert_close(targets.softened(kept, 3.0).log_probs, targets.softened(live, 3.0).log_probs)
    with pytest.raises(InputError, match="samples without a stored answer"):
        stored(whole(samples))


def test_distilling_an_ensemble_is_the_same_from_stored_answers():
    samples, ensemble = samples_of(24), ensemble_of()
    weights = []
    for teacher in (ensemble, store(ensemble, samples)):
        distiller = Distiller(network(9), teacher, methods.kd(temperature=4.0))
        weights.append(fit(distiller, samples, epochs=2, batch_size=8, learning_rate=0.1).student.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name])


def test_the_fingerprint_of_an_ensemble_tells_members_weights_and_mean():
    samples = samples_of()
    made = [
        ensemble_of(),
        ensemble_of(2),
        ensemble_of(weights=(0.2, 0.5, 0.3)),
        ensemble_of(mean="geometric"),
        EnsembleTeacher(list(reversed(ensemble_of().members))),
    ]
    assert len({each.fingerprint() for each in made}) == len(made)
    assert ensemble_of().fingerprint() == made[0].fingerprint()
    assert len({store(each, samples).fingerprint() for each in made}) == len(made)
    kept = store(ensemble_of(), samples)
    assert kept.fingerprint() == store(made[0], samples).fingerprint()
    members = ensemble_of()(whole(samples)).members
    others = [
        dataclasses.replace(members, logits=members.logits.flip(0)),
        dataclasses.replace(members, weights=(0.5, 0.25, 0.25)),
        dataclasses.replace(members, mean="geometric"),
        members,
        None,
    ]
    built = [StoredTeacher(kept.logits, kept.index, source=samples.source, members=each) for each in others]
    assert len({each.fingerprint() for each in built}) == len(others)
    with pytest.raises(InputError, match=r"members' logits \(3, 12, 4\), logits \(5, 4\): expected \(M, n, K\)"):
        StoredTeacher(kept.logits[:5], kept.index[:5], source=samples.source, members=members)


@over(
    ("call", "line"),
    [
        (lambda: EnsembleTeacher([]), "members: found none, expected at least one teacher"),
        (
            lambda: EnsembleTeacher([network()]),
            "members: found a plain module (Sequential) at 0, expected a teacher; wrap a network in",
        ),
        (lambda: ensemble_of(weights=(0.5, 0.5)), "weights: found [0.5, 0.5], 2 in all, expected 3"),
        (lambda: ensemble_of(weights=(0.5, 0.6, -0.1)), "weights: found -0.1, expected a finite number that is 0 or"),
        (lambda: ensemble_of(weights=(0.5, 0.6, 0.1)), "weights: found [0.5, 0.6, 0.1], which sum to 1.2"),
        (lambda: ensemble_of(mean="median"), "mean: found 'median', expected one of: arithmetic, geometric"),
        (
            lambda: EnsembleTeacher([ensemble_of(), ModelTeacher(network())])(whole(samples_of())),
            "ensemble: member 0 is an ensemble; give its members",
        ),
        (lambda: ensemble_of()(whole(samples_of()), {"hidden": "0"}), "ensemble: it has only logits in common"),
    ],
)
def test_an_ensemble_that_is_none_is_refused(call, line):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(line)


def test_members_with_other_classes_are_refused():
    mixed = EnsembleTeacher([ModelTeacher(network()), ModelTeacher(network(classes=5))])
    with pytest.raises(ModelError, match=r"member 1 answers \(12, 5\), member 0 \(12, 4\); give all members the same"):
        mixed(whole(samples_of()))


def test_half_precision_members_are_averaged_in_single():
    half = [ModelTeacher(network(seed).to(torch.bfloat16)) for seed in range(2)]
    batch = Batch.of(torch.ones(2, 3, dtype=torch.bfloat16))
    assert EnsembleTeacher(half)(batch).logits.dtype == torch.float32


# -------------------------------------------------------------------------------------------------------- class vectors


class Convolutional(nn.Module):
    """A network whose head is a 1x1 convolution, with a layer of another width registered after it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, CLASSES, 1)
        self.after = nn.Linear(CLASSES, 7)

    def forward(self, inputs):
        return self.head(inputs[:, :, None, None]).flatten(1)


class Wide(nn.Module):
    """A network without a layer that is linear."""

    def forward(self, inputs):
        return inputs @ torch.ones(3, CLASSES)


def test_the_rows_of_the_last_linear_layer_are_found_or_named():
    model = network()
    assert torch.equal(ModelTeacher(model).class_vectors(), model[2].weight)
    assert torch.equal(ModelTeacher(model).class_vectors(CLASSES), model[2].weight)
    assert torch.equal(ModelTeacher(model, last_linear="0").class_vectors(), model[0].weight)
    head = Convolutional()
    assert torch.equal(ModelTeacher(head).class_vectors(CLASSES), head.head.weight.flatten(1))
    assert torch.equal(ModelTeacher(head).class_vectors(), head.after.weight)
    assert torch.equal(ModelTeacher(head, last_linear="head").class_vectors(), head.head.weight.flatten(1))
    wrapped = torch.nn.DataParallel(model) if torch.cuda.is_available() else nn.ModuleDict({"module": model})
    assert torch.equal(ModelTeacher(wrapped, last_linear="2").class_vectors(CLASSES), model[2].weight)
    assert not ModelTeacher(model).class_vectors().requires_grad


def test_a_layer_that_normalises_its_vectors_shows_those():
    model = models.residual_tanh((3,), CLASSES, hidden=(5,))
    found = ModelTeacher(model).class_vectors(CLASSES)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(CLASSES))


@over(
    ("model", "named", "line"),
    [
        (Wide(), None, "teacher: it has no linear layer with 4 outputs, whose rows are the vectors of the classes"),
        (network(classes=5), None, "teacher: it has no linear layer with 4 outputs"),
        (nn.Conv1d(3, CLASSES, 3), None, "teacher: it has no linear layer with 4 outputs"),
        (network(), "fc", "teacher, last_linear: it has no layer 'fc'; one of: 0, 2"),
        (network(), "1", "teacher, last_linear: '1' is no linear layer; one of: 0, 2"),
        (network(), "0", "teacher, last_linear: '0' has 8 outputs, expected 4, one a class"),
        (Wide(), "fc", "teacher, last_linear: it has no layer 'fc'; it has no linear layer at all"),
    ],
)
def test_a_network_without_such_a_layer_is_refused(model, named, line):
    with pytest.raises(ModelError) as caught:
        ModelTeacher(model, last_linear=named).class_vectors(CLASSES)
    assert str(caught.value).startswith(line)


def test_naming_the_layer_is_part_of_the_fingerprint_and_not_naming_it_changes_none():
    samples = samples_of()
    plain, named = ModelTeacher(network()), ModelTeacher(network(), last_linear="2")
    assert plain.fingerprint() != named.fingerprint()
    assert store(plain, samples).fingerprint() != store(named, samples).fingerprint()
    stored = store(plain, samples)
    as_before = StoredTeacher(stored.logits, stored.index, source=samples.source, origin=stored.origin)
    assert as_before.fingerprint() == stored.fingerprint()


def test_stored_answers_keep_the_class_vectors_of_whoever_gave_them():
    samples = samples_of()
    model = network()
    stored = store(ModelTeacher(model), samples)
    assert isinstance(stored, ClassVectors)
    assert torch.equal(stored.class_vectors(CLASSES), model[2].weight)
    with torch.no_grad():
        kept = stored.class_vectors().clone()
        model[2].weight.zero_()
    assert torch.equal(stored.class_vectors(), kept)
    for without in (
        store(ModelTeacher(Wide()), samples),
        StoredTeacher(torch.zeros(1, 4), torch.tensor([0]), source=""),
    ):
        with pytest.raises(ModelError, match="stored teacher: it has no class vectors of 4 classes"):
            without.class_vectors(CLASSES)
    with pytest.raises(ModelError, match="of 5 classes"):
        stored.class_vectors(5)
    given = [
        StoredTeacher(stored.logits, stored.index, source="a", class_vectors=vectors)
        for vectors in (kept, kept + 1, None)
    ]
    assert len({each.fingerprint() for each in given}) == 3


def test_the_cosines_of_an_ensemble_are_the_weighted_mean_of_its_members():
    weights = (0.2, 0.5, 0.3)
    ensemble = ensemble_of(weights=weights)
    members = [targets.class_cosines(member.class_vectors(CLASSES)) for member in ensemble.members]
    expected = sum(weight * cosines for weight, cosines in zip(weights, members, strict=True))
    torch.testing.assert_close(targets.class_cosines(ensemble.class_vectors(CLASSES)), expected)
    stored = store(ensemble, samples_of())
    torch.testing.assert_close(stored.class_vectors(CLASSES), ensemble.class_vectors(CLASSES))
    with pytest.raises(ModelError, match="no linear layer with 4 outputs"):
        EnsembleTeacher([ModelTeacher(network()), ModelTeacher(Wide())]).class_vectors(CLASSES)
    box = ArrayTeacher.of_labels(torch.arange(SIZE) % CLASSES, samples_of())
    with pytest.raises(ModelError, match=r"member 0 \(ArrayTeacher\) has no class vectors"):
        EnsembleTeacher([box]).class_vectors(CLASSES)


@pytest.mark.parametrize("stored", [False, True])
def test_a_distiller_reads_the_class_vectors_once_and_gives_their_cosines_to_the_target(stored):
    samples, model = samples_of(), network()
    teacher = store(ModelTeacher(model), samples) if stored else ModelTeacher(model)
    distiller = Distiller(network(5), teacher, methods.kd_sim(alpha=0.0, temperature=2.0, power=0.7, tau=0.4))
    batch = whole(samples)
    loss = distiller(batch).total
    target = targets.similar_classes(targets.class_cosines(model[2].weight), batch.labels, 0.7, 0.4)
    expected = 4.0 * losses.KL.per_example(distiller.student(batch.inputs), target, 2.0).mean()
    torch.testing.assert_close(loss, expected)
    before = distiller.outputs(batch, 0)["teacher"].class_cosines
    torch.testing.assert_close(before, targets.class_cosines(model[2].weight))
    with torch.no_grad():
        model[2].weight.mul_(-torch.arange(8.0))
    assert distiller.outputs(batch, 0)["teacher"].class_cosines is before
    assert set(distiller.state_dict()) == {f"student.{name}" for name in distiller.student.state_dict()}


def test_plain_distillation_asks_for_no_class_vectors():
    distiller = Distiller(network(), ModelTeacher(Wide()), methods.kd())
    assert distiller.outputs(whole(samples_of()), 0)["teacher"].class_cosines is None


def test_a_teacher_without_class_vectors_is_refused_by_whoever_reads_them():
    samples = samples_of()
    box = ArrayTeacher.of_labels(torch.arange(SIZE) % CLASSES, samples)
    for teacher, line in (
        (
            box,
            r"a term reads the vectors of the classes in its last linear layer, and this one \(ArrayTeacher\) has none",
        ),
        (ModelTeacher(Wide()), "it has no linear layer with 4 outputs"),
    ):
        distiller = Distiller(network(), teacher, methods.kd_sim())
        with pytest.raises(ModelError, match=line):
            distiller.build(whole(samples))


# ---------------------------------------------------------------------------------------------- a subset of the classes


def test_a_student_of_some_classes_learns_from_a_teacher_of_all():
    samples = samples_of(24).only_classes([3, 1]).relabelled([3, 1])
    assert samples.labels.tolist() == [0 if i % 2 else 1 for i in range(12)]
    teacher = ModelTeacher(network())
    distiller = Distiller(network(5, classes=2), teacher, methods.class_subset([3, 1], temperature=2.0, alpha=0.0))
    result = fit(distiller, samples, epochs=1, batch_size=12, learning_rate=1e-12)
    batch = whole(samples)
    v = teacher(batch).logits[:, [3, 1]]
    expected = losses.kd(network(5, classes=2)(batch.inputs), v, temperature=2.0, soft_weight=1.0)
    assert result.history[-1]["train"]["soft"] == pytest.approx(float(expected.detach()), rel=1e-5)
    plain = Distiller(network(5, classes=2), teacher, methods.kd())
    with pytest.raises(ModelError, match="teacher: answers 4 classes, the data has 2; give the teacher 2 outputs"):
        fit(plain, samples, epochs=1)


def test_a_network_restricted_to_some_classes_is_a_network():
    model, inputs = network(), torch.randn(5, 3)
    restricted = RestrictedModel(model, [3, 1], total=CLASSES)
    assert torch.equal(run_model(restricted, inputs).logits, model(inputs)[:, [3, 1]])
    assert torch.equal(run_model(restricted, inputs, {"hidden": "1"}).features["hidden"], model[:2](inputs))
    assert set(restricted.state_dict()) == {f"module.{name}" for name in model.state_dict()}
    teacher = ModelTeacher(restricted, last_linear="2")
    assert torch.equal(teacher.class_vectors(2), model[2].weight[[3, 1]])
    assert torch.equal(ModelTeacher(restricted).class_vectors(), model[2].weight[[3, 1]])
    with pytest.raises(ModelError, match="teacher: found answers for 2 classes, expected 4"):
        teacher.class_vectors(4)
    for classes, line in (
        ([], "found none"),
        ([4], "found 4, expected numbers from 0 to 3"),
        ([1, 1], "more than once"),
    ):
        with pytest.raises(InputError, match=line):
            RestrictedModel(model, classes, total=CLASSES)


def test_a_mean_of_networks_is_asked_as_an_ensemble():
    with pytest.raises(
        InputError, match=r"teacher: found a mean of networks, expected one network; use limbeck\.Ensemble"
    ):
        ModelTeacher(MeanOfModels([network(), network(1)]))


def test_outputs_keep_all_they_hold_when_cut_off():
    ensemble = ensemble_of(2)
    outputs = ensemble(whole(samples_of()))
    outputs.class_cosines = torch.eye(CLASSES)
    learning = dataclasses.replace(
        outputs, members=dataclasses.replace(outputs.members, logits=outputs.members.logits.requires_grad_())
    )
    cut = learning.detach()
    assert not cut.members.logits.requires_grad
    assert cut.class_cosines is outputs.class_cosines
    assert cut.members.weights == (0.5, 0.5)
    assert Outputs(torch.zeros(1, 2)).detach().members is None
