"""Several trainings on the same batches: each is what it is alone, bit for bit, and nothing is computed twice."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.data import Augment, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, Interrupted, ModelError, NonFiniteLossError, RunError
from limbeck.objective import Objective, Term
from limbeck.terms import HardLabels
from limbeck.training import Training, attempt_many, fit, fit_many
from limbeck.training.sharing import SharedBatches, SharedTeacher
from walk import over


def images(size=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(size, 1, 6, 6, generator=generator)
    return TensorSet.of(pictures, torch.randint(4, (size,), generator=generator), classes=4)


SAMPLES, HELD_OUT = images(), images(24, seed=1)
SHORT = Training(epochs=3, batch_size=12, learning_rate=0.1)  # 40 samples: the last batch has 4


def network(seed=0, *, width=6, dropout=0.0, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(36, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, 4))


class Counting:
    """A teacher that counts what it is asked."""

    def __init__(self):
        self.teacher, self.calls = lb.ModelTeacher(network(9, width=12)), 0

    def __call__(self, batch, taps=None):
        self.calls += 1
        return self.teacher(batch, taps)

    def to(self, device):
        return self

    def fingerprint(self):
        return self.teacher.fingerprint()

    def class_vectors(self, classes=None):
        return self.teacher.class_vectors(classes)


class Spoiling(Term):
    """Zero, and NaN at one step."""

    def __init__(self, at):
        super().__init__("spoilt")
        self.at = at

    def sum(self, outputs, batch, step):
        return outputs["student"].logits.sum() * (float("nan") if step == self.at else 0.0)


class Hint(Term):
    """Squared distance of a hidden unit of the student from one of the teacher's."""

    reads = frozenset({"student", "teacher"})

    def __init__(self):
        super().__init__("hint", 0.3)
        self.taps = {"student": {"hidden": "1"}, "teacher": {"hidden": "1"}}

    def sum(self, outputs, batch, step):
        student, teacher = (outputs[name].features["hidden"] for name in ("student", "teacher"))
        return (student[:, :6] - teacher[:, :6]).square().sum()


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def several(teacher):
    """Students that differ in everything that may differ: target, weight, rate, budget, seed, architecture."""
    kd = methods.kd
    made = [
        (network(0, dropout=0.3), kd(temperature=1.0), SHORT, 0),
        (network(0, dropout=0.3), kd(temperature=6.0, hard_weight=0.7, soft_weight=0.3), SHORT, 0),
        (network(1, dropout=0.3), kd(temperature=2.0), replace(SHORT, learning_rate=0.02), 1),
        (network(2, width=9, norm=True), kd(temperature=2.0), replace(SHORT, epochs=5, optimizer="adamw"), 2),
        (network(3), methods.hard(), replace(SHORT, epochs=1), 3),
        (network(4, dropout=0.5), kd(temperature=3.0), replace(SHORT, averaging=0.9, keep="best", max_norm=0.9), 4),
        (network(5), kd(temperature=3.0), replace(SHORT, epochs=9, patience=1, clip=0.5), 5),
    ]
    return [
        (Distiller(student, teacher if "teacher" in objective.reads() else None, objective), training, seed)
        for student, objective, training, seed in made
    ]


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"augment": Augment(shift=1, flip=0.5)},
        {"accumulate": 2},
        {"precision": "bf16"},
        {"augment": Augment(shift=1, mixup=0.5), "accumulate": 2},
    ],
    ids=["plain", "augmented", "accumulated", "bf16", "mixed"],
)
def test_each_is_what_it_is_alone(tmp_path, shared):
    order = 7
    apart = []
    for number, (distiller, training, seed) in enumerate(several(Counting())):
        folder = tmp_path / f"apart-{number}"
        settings = replace(training, **shared)
        apart.append(fit(distiller, SAMPLES, HELD_OUT, training=settings, seed=seed, order=order, folder=folder))

    made = several(Counting())
    together = fit_many(
        [distiller for distiller, _, _ in made],
        SAMPLES,
        HELD_OUT,
        training=[replace(training, **shared) for _, training, _ in made],
        seed=[seed for _, _, seed in made],
        order=order,
        folders=[tmp_path / f"together-{number}" for number in range(len(made))],
    )

    for number, (one, other) in enumerate(zip(apart, together, strict=True)):
        assert same(state(one.student), state(other.student)), number
        told = [{**vars(result), "student": None, "seconds": 0} for result in (one, other)]
        assert told[0] == told[1]
        folders = [tmp_path / f"{kind}-{number}" for kind in ("apart", "together")]
        files = [{path.name for path in folder.iterdir()} for folder in folders]
        assert files[0] == files[1]
        for name in ("student.safetensors", "metrics.jsonl", "result.json"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), (number, name)


def test_seeds_with_orders_of_their_own_are_what_fit_gives_by_default():
    alone = fit(Distiller(network(), None, methods.hard()), SAMPLES, training=SHORT, seed=3)
    (shared,) = fit_many([Distiller(network(), None, methods.hard())], SAMPLES, training=SHORT, seed=3)
    given = fit(Distiller(network(), None, methods.hard()), SAMPLES, training=SHORT, seed=3, order=3)
    other = fit(Distiller(network(), None, methods.hard()), SAMPLES, training=SHORT, seed=3, order=4)

    assert same(state(alone.student), state(shared.student))
    assert same(state(alone.student), state(given.student))
    assert not same(state(alone.student), state(other.student))


def test_a_training_of_another_order_is_another_training(tmp_path):
    def run(**order):
        return fit(Distiller(network(), None, methods.hard()), SAMPLES, training=SHORT, folder=tmp_path, **order)

    first = run(seed=3)
    assert same(state(run(seed=3, order=3).student), state(first.student))  # the same, so it is read
    with pytest.raises(RunError, match="order was null, is 4"):
        run(seed=3, order=4)


def test_the_teacher_is_asked_once_a_batch_and_batches_are_made_once():
    teacher, drawn = Counting(), []

    class Drawing(TensorSet):
        def assemble(self, *given, **more):
            drawn.append(1)
            return super().assemble(*given, **more)

    samples = Drawing.of(SAMPLES.gather(torch.arange(40)), SAMPLES.labels, classes=4)
    settings = replace(SHORT, augment=Augment(shift=1))
    distillers = [Distiller(network(n), teacher, methods.kd(temperature=float(t))) for n, t in enumerate((1, 2, 4, 8))]
    fit_many(distillers, samples, training=settings)

    assert len(drawn) == teacher.calls == 12  # 3 epochs of 4 batches


def test_teachers_of_their_own_are_each_asked():
    teachers = [Counting(), Counting()]
    distillers = [Distiller(network(n), teacher, methods.kd(temperature=2.0)) for n, teacher in enumerate(teachers)]
    fit_many(distillers, SAMPLES, training=replace(SHORT, epochs=1))

    assert [teacher.calls for teacher in teachers] == [5, 5]  # the first batch once more, to build the terms
    assert [distiller.teacher for distiller in distillers] == teachers


def test_the_distillers_have_their_own_teacher_again_even_after_an_error():
    teacher = Counting()
    distillers = [Distiller(network(n), teacher, methods.kd(temperature=2.0)) for n in range(2)]

    def refuse(progress):
        raise ValueError("seen enough")

    with pytest.raises(ValueError, match="seen enough"):
        fit_many(distillers, SAMPLES, training=SHORT, watch=refuse)
    assert [distiller.teacher for distiller in distillers] == [teacher, teacher]


def test_features_of_the_teacher_and_class_vectors_are_those_of_the_teacher():
    def made(teacher):
        hints = Objective([HardLabels(), Hint()])
        targets = [lb.targets.SimilarClasses(), lb.targets.Softmax()]
        return [
            Distiller(network(0), teacher, hints),
            *(Distiller(network(0), teacher, methods.kd(temperature=2.0, target=target)) for target in targets),
        ]

    apart = [fit(distiller, SAMPLES, training=SHORT) for distiller in made(Counting())]
    together = fit_many(made(Counting()), SAMPLES, training=SHORT)
    assert all(same(state(one.student), state(other.student)) for one, other in zip(apart, together, strict=True))


# --------------------------------------------------------------------------------------------------------- interruption


def stop_at(label, step):
    def watch(progress):
        if progress.label == label and progress.epoch_ended and progress.step >= step:
            os.kill(os.getpid(), signal.SIGTERM)

    return watch


def begin(tmp_path, watch, numbers=range(7)):
    made = [several(TEACHER)[number] for number in numbers]
    return fit_many(
        [distiller for distiller, _, _ in made],
        SAMPLES,
        HELD_OUT,
        training=[training for _, training, _ in made],
        seed=[seed for _, _, seed in made],
        order=7,
        folders=[tmp_path / str(number) for number in numbers],
        labels=[str(number) for number in numbers],
        watch=watch,
    )


TEACHER = Counting()


@pytest.mark.thorough
def test_interrupted_together_gone_on_with_together_or_alone_in_any_company(tmp_path):
    whole = begin(tmp_path / "whole", lambda progress: None)
    with pytest.raises(Interrupted):
        begin(tmp_path / "cut", stop_at("2", 4))
    made = several(TEACHER)
    distiller, training, seed = made[0]
    alone = fit(distiller, SAMPLES, HELD_OUT, training=training, seed=seed, order=7, folder=tmp_path / "cut" / "0")
    with pytest.raises(Interrupted):  # now at other steps than the rest
        begin(tmp_path / "cut", stop_at("3", 8), numbers=(1, 3, 4))
    rest = begin(tmp_path / "cut", lambda progress: None)

    assert same(state(alone.student), state(whole[0].student))
    for number, (one, other) in enumerate(zip(whole, rest, strict=True)):
        assert same(state(one.student), state(other.student)), number
        for name in ("student.safetensors", "metrics.jsonl"):
            kinds = [(tmp_path / kind / str(number) / name).read_bytes() for kind in ("whole", "cut")]
            assert kinds[0] == kinds[1], (number, name)


def test_one_who_drops_out_leaves_the_others_as_they_are():
    def made():
        spoilt = Objective([HardLabels(), Spoiling(at=5)])
        return [
            Distiller(network(0, dropout=0.2), None, methods.hard()),
            Distiller(network(1, dropout=0.2), None, spoilt),
            Distiller(network(2, dropout=0.2), None, methods.hard()),
        ]

    outcomes = attempt_many(made(), SAMPLES, training=SHORT, seed=[0, 1, 2], order=0)
    assert isinstance(outcomes[1], NonFiniteLossError)
    for number in (0, 2):
        alone = fit(made()[number], SAMPLES, training=SHORT, seed=number, order=0)
        assert same(state(alone.student), state(outcomes[number].student))
    ended = []
    with pytest.raises(NonFiniteLossError, match="step 6: term 'spoilt'"):
        fit_many(made(), SAMPLES, training=SHORT, watch=lambda look: ended.append((look.label, look.epoch)))
    assert ("student 1", 3) in ended
    assert ("student 3", 3) in ended


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    distillers = [Distiller(network(n, dropout=0.5), None, methods.hard()) for n in range(2)]
    fit_many(distillers, SAMPLES, training=SHORT, watch=lambda look: torch.rand(1))
    assert torch.equal(torch.rand(3), expected)


def test_every_training_is_told_by_its_label():
    seen = set()
    distillers = [Distiller(network(n), None, methods.hard()) for n in range(2)]
    fit_many(distillers, SAMPLES, epochs=2, labels=["a", "b"], watch=lambda look: seen.add((look.label, look.epoch)))
    assert seen == {("a", 1), ("b", 1), ("a", 2), ("b", 2)}


# --------------------------------------------------------------------------------------------------------------- errors


@over(
    ("changes", "message"),
    [
        ({"training": [SHORT, replace(SHORT, batch_size=8)]}, "training.batch_size: found 12 for student 1 and 8 for"),
        ({"training": [SHORT, replace(SHORT, precision="bf16")]}, "training.precision"),
        ({"training": [SHORT, replace(SHORT, augment=Augment(shift=1))]}, "training.augment"),
        ({"training": [SHORT]}, "training: found 1, expected one for each of the 2 distillers"),
        ({"seed": [1, 2, 3]}, "seed: found 3, expected one for each of the 2"),
        ({"labels": "ab"}, "labels: found 'ab', expected a list of texts"),
        ({"labels": ["a", "a"]}, "labels: found 'a' twice"),
        ({"folders": ["x", "x"]}, "folders: found 'x' twice"),
        ({"training": SHORT, "epochs": 3}, "training: found together with epochs"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes, message):
    distillers = [Distiller(network(n), None, methods.hard()) for n in range(2)]
    with pytest.raises(InputError, match=message):
        fit_many(distillers, SAMPLES, **changes)


def test_students_that_share_parameters_are_refused():
    student = network()
    with pytest.raises(InputError, match="student 1 and student 2 share a parameter"):
        fit_many([Distiller(student, None, methods.hard()) for _ in range(2)], SAMPLES, training=SHORT)
    with pytest.raises(InputError, match="found none, expected at least one"):
        fit_many([], SAMPLES, training=SHORT)


def test_a_teacher_that_learns_is_noticed():
    student = network()
    teacher = lb.ModelTeacher(network(1))
    distillers = [Distiller(student, None, methods.hard()), Distiller(network(2), teacher, methods.kd(2.0))]
    teacher.model = student.requires_grad_(True)
    with pytest.raises(ModelError, match="its weights changed"):
        fit_many(distillers, SAMPLES, training=SHORT)


# -------------------------------------------------------------------------------------------------------------- sharing


def test_shared_batches_serve_every_place_in_any_order():
    from limbeck.training.loop import batches_of

    settings = replace(SHORT, augment=Augment(shift=1))
    plain = batches_of(SAMPLES, settings, 3)
    shared = SharedBatches(batches_of(SAMPLES, settings, 3), torch.device("cpu"), "contiguous")
    everyone = [shared.epoch(1), shared.epoch(1, start=2), shared.epoch(0), shared.epoch(1, rank=1, world=2)]
    wanted = [plain.epoch(1), plain.epoch(1, start=2), plain.epoch(0), plain.epoch(1, rank=1, world=2)]
    for _ in range(2):
        for ours, theirs in zip(everyone, wanted, strict=True):
            one, other = next(ours), next(theirs)
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.index, other.index)
    with pytest.raises(StopIteration):
        next(everyone[1])


def test_a_changed_batch_is_asked_about_anew():
    counting = Counting()
    teacher = SharedTeacher(counting)
    batch = lb.Batch.of(torch.rand(5, 1, 6, 6), torch.zeros(5, dtype=torch.long))
    first = teacher(batch)
    assert teacher(replace(batch)) is first
    noisy = replace(batch, inputs=batch.inputs + 1)
    assert not torch.equal(teacher(noisy).logits, first.logits)
    assert counting.calls == 2


def test_the_result_of_a_shared_training_says_which_order_it_had(tmp_path):
    distillers = [Distiller(network(n), None, methods.hard()) for n in range(2)]
    folders = [tmp_path / "0", tmp_path / "1"]
    fit_many(distillers, SAMPLES, training=SHORT, seed=[0, 1], folders=folders)
    assert "order" not in json.loads((folders[0] / "result.json").read_text())["identity"]
    assert json.loads((folders[1] / "result.json").read_text())["identity"]["order"] == 0
