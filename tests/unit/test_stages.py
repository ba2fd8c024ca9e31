"""Stages and hints: what learns and what rests, and terms that own a projection between two networks."""

import logging
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.data import Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, NonFiniteLossError
from limbeck.objective import Objective, Term
from limbeck.outputs import Tap, run_model
from limbeck.randomness import derive_seed
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Stage, Training, fit, fit_stages, load_weights
from limbeck.training.checkpoints import newest
from walk import over

SAMPLES = TensorSet.of(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4)
SHORT = Training(epochs=2, batch_size=16, learning_rate=0.1)


def student_of(seed=0, *, inplace=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(OrderedDict(lower=nn.Linear(3, 6), norm=nn.BatchNorm1d(6), act=nn.ReLU(inplace=inplace)))
        return nn.Sequential(
            OrderedDict(
                body=body, drop=nn.Dropout(0.5), middle=nn.Linear(6, 5), last=nn.BatchNorm1d(5), head=nn.Linear(5, 4)
            )
        )


def teacher_of(seed=9):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ModelTeacher(
            nn.Sequential(
                OrderedDict(body=nn.Linear(3, 10), norm=nn.BatchNorm1d(10), act=nn.ReLU(), head=nn.Linear(10, 4))
            )
        )


class Hint(Term):
    """½‖r(student's feature) - teacher's feature‖² (Romero et al. 2015), with a regressor r made in `build`."""

    reads = frozenset({"student", "teacher"})

    def __init__(self, weight=1.0, *, student="body", teacher="act", name="hint"):
        super().__init__(name, weight)
        self.taps = {"student": {name: student}, "teacher": {name: teacher}}

    def features(self, outputs):
        return outputs["student"].features[self.name], outputs["teacher"].features[self.name]

    def build(self, outputs, setup):
        given, wanted = self.features(outputs)
        kind = nn.Linear if given.ndim == 2 else lambda i, o: nn.Conv2d(i, o, 1)
        self.regressor = kind(given.shape[1], wanted.shape[1])

    def sum(self, outputs, batch, step):
        given, wanted = self.features(outputs)
        return 0.5 * (self.regressor(given) - wanted).square().sum()


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    """Return the first parts of the names of what is no longer as it was."""
    now = module.state_dict()
    return {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, now[name])}


def stages_of(*, objectives=(methods.hard, methods.hard)):
    return [
        Stage("lower", objectives[0](), SHORT, trainable=["body", "middle"]),
        Stage("upper", objectives[1](), SHORT, trainable=["head"]),
    ]


# --------------------------------------------------------------------------------------------------------------- stages


@over(
    ("trainable", "moved"),
    [
        (["body"], {"body"}),
        (["body.lower"], {"body"}),
        (["head"], {"head"}),
        (["middle", "last"], {"middle", "last"}),
        (None, {"body", "middle", "last", "head"}),
    ],
)
def test_a_stage_changes_what_it_names_and_no_bit_of_the_rest(trainable, moved):
    student = student_of()
    before = state(student)
    fit_stages(student, None, [Stage("one", methods.hard(), SHORT, trainable)], SAMPLES)
    assert changed(before, student) == moved
    if trainable == ["body.lower"]:
        assert changed(state(student_of().body), student.body) == {"lower"}
    if trainable == ["body"]:
        assert {"running_mean", "num_batches_tracked"} <= changed(state(student_of().body.norm), student.body.norm)


def test_weight_decay_averaging_and_max_norm_leave_the_rest_alone_too():
    student = student_of()
    before = state(student)
    training = Training(
        epochs=3, batch_size=16, learning_rate=0.1, weight_decay=0.1, averaging=0.9, keep="best", max_norm=0.01
    )
    fit_stages(student, None, [Stage("one", methods.hard(), training, ["head"])], SAMPLES, SAMPLES)
    assert changed(before, student) == {"head"}
    assert bool((student.head.weight.norm(dim=1) <= 0.0101).all())


def test_what_rests_is_in_eval_and_what_learns_in_train_mode_even_after_a_validation():
    student, seen = student_of(), {}
    student.body.append(nn.Dropout(0.5))
    for name in ("body", "body.norm", "body.3", "drop", "last", "head"):
        module = student.get_submodule(name)
        module.register_forward_hook(lambda module, *_, name=name: seen.setdefault(name, []).append(module.training))
    stage = Stage("one", methods.hard(), SHORT, trainable=["middle", "last"])
    fit_stages(student, None, [stage], SAMPLES, SAMPLES)
    epoch = [True] * 4 + [False]  # four steps, then the validation
    for learning in ("drop", "last"):
        assert seen.pop(learning) == [False, *epoch, *epoch]
    assert seen == {name: [False] * 11 for name in ("body", "body.norm", "body.3", "head")}
    assert len({module.training for module in student.modules()}) == 1
    assert not any(module._forward_pre_hooks for module in student.modules())
    student.train()(torch.randn(4, 3))
    assert seen["body"][-1]


def test_stages_follow_one_another_on_the_same_student():
    student, looks = student_of(), []
    results = fit_stages(student, None, stages_of(), SAMPLES, seed=5, watch=looks.append)
    assert [result.student is student for result in results] == [True, True]
    assert list(dict.fromkeys(look.label for look in looks)) == ["lower", "upper"]

    lower, upper = stages_of()
    again = student_of()
    fit_stages(again, None, [lower], SAMPLES, seed=5)
    between = state(again)
    fit_stages(again, None, [upper], SAMPLES, seed=6)
    assert changed(between, again) == {"head"}
    assert not changed(state(again), student)


def test_what_learns_is_as_the_caller_had_it_afterwards():
    student = student_of()
    student.body.lower.bias.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    before = state(student)
    fit_stages(student, None, stages_of(), SAMPLES)
    assert {name: parameter.requires_grad for name, parameter in student.named_parameters()} == wanted
    assert torch.equal(student.body.lower.bias, before["body.lower.bias"])  # named, but frozen by its owner

    class Spoilt(Term):
        def sum(self, outputs, batch, step):
            return outputs["student"].logits.sum() * float("nan")

    with pytest.raises(NonFiniteLossError):
        fit_stages(student, None, [Stage("one", Objective([Spoilt("spoilt")]), SHORT, ["head"])], SAMPLES)
    assert {name: parameter.requires_grad for name, parameter in student.named_parameters()} == wanted
    assert not any(module._forward_pre_hooks for module in student.modules())


def test_a_tied_weight_learns_where_either_of_its_owners_does():
    student = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), act=nn.ReLU(), second=nn.Linear(4, 4)))
    student.second.weight = student.first.weight
    samples = TensorSet.of(torch.randn(32, 4), torch.arange(32) % 4)
    before = state(student)
    fit_stages(student, None, [Stage("one", methods.hard(), SHORT, ["second"])], samples)
    assert changed(before, student) == {"first", "second"}
    assert torch.equal(student.first.bias, before["first.bias"])
    assert student.second.weight is student.first.weight


@over(
    ("trainable", "says"),
    [
        (["boddy"], "stage 'one': the student has no module 'boddy'; did you mean 'body'?"),
        (["body", "body.lowest"], "stage 'one': the student has no module 'body.lowest'; did you mean 'body.lower'?"),
        (["head.weight"], "stage 'one': the student has no module 'head.weight'"),
        ([], "student: no parameter requires a gradient"),
        (["drop"], "student: no parameter requires a gradient"),
    ],
)
def test_a_stage_that_names_what_is_not_there_gets_the_nearest_path(trainable, says):
    student = student_of()
    before = state(student)
    with pytest.raises(ModelError) as caught:
        fit_stages(student, None, [Stage("one", methods.hard(), SHORT, trainable)], SAMPLES)
    assert says in str(caught.value)
    assert changed(before, student) == set()
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", "b", "a"]])
def test_stages_need_a_name_each(names):
    with pytest.raises(InputError, match=r"stages: found the names .*, expected at least one stage and each name once"):
        fit_stages(student_of(), None, [Stage(name, methods.hard(), SHORT) for name in names], SAMPLES)


# -------------------------------------------------------------------------------------------------- stages and resuming


def hint_then_kd():
    return [
        Stage("hint", Objective([Hint()]), SHORT, trainable=["body"]),
        Stage("kd", methods.kd(2.0), Training(epochs=2, batch_size=16, learning_rate=0.05)),
    ]


def test_finished_stages_are_read_and_not_run_again(tmp_path):
    first = student_of()
    results = fit_stages(first, teacher_of(), hint_then_kd(), SAMPLES, SAMPLES, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-hint", "2-kd"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again, looks = student_of(), []
    read = fit_stages(again, teacher_of(), hint_then_kd(), SAMPLES, SAMPLES, folder=tmp_path, watch=looks.append)
    assert [(look.label, look.resumed, look.step == look.steps) for look in looks] == [
        ("hint", True, True),
        ("kd", True, True),
    ]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == kept
    assert changed(state(first), again) == set()
    assert [result.history for result in read] == [result.history for result in results]


class Crash(Exception):
    pass


@pytest.mark.miniature(2)
@pytest.mark.parametrize("label", ["hint", "kd"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_broken_stage_goes_on_and_those_before_it_are_read(tmp_path, label, epoch):
    def crash(look):
        if (look.label, look.epoch, look.epoch_ended) == (label, epoch, True):
            raise Crash

    stages = hint_then_kd()
    always = [
        Stage(s.name, s.objective, Training(**vars(s.training) | {"checkpoint_seconds": 0.0}), s.trainable)
        for s in stages
    ]
    whole, broken, looks = student_of(), student_of(), []
    fit_stages(whole, teacher_of(), hint_then_kd(), SAMPLES, folder=tmp_path / "whole")
    with pytest.raises(Crash):
        fit_stages(broken, teacher_of(), always, SAMPLES, folder=tmp_path / "broken", watch=crash)
    unfinished = tmp_path / "broken" / ("1-hint" if label == "hint" else "2-kd")
    assert newest(unfinished / "checkpoints") is not None
    again = student_of()  # a new process, which begins alike
    fit_stages(again, teacher_of(), hint_then_kd(), SAMPLES, folder=tmp_path / "broken", watch=looks.append)
    assert [(look.label, look.epoch) for look in looks if not look.resumed] == [
        (name, number)
        for name in ("hint", "kd")
        for number in (1, 2)
        if (name == label and number >= epoch) or name > label
    ]
    assert changed(state(whole), again) == set()
    for file in ("1-hint/metrics.jsonl", "2-kd/metrics.jsonl"):
        assert (tmp_path / "broken" / file).read_text() == (tmp_path / "whole" / file).read_text()


# ---------------------------------------------------------------------------------------------------------------- hints


def distiller_of(*terms, student=None):
    return Distiller(student or student_of(), teacher_of(), Objective(list(terms) or [Hint(), HardLabels()]))


def first_batch(seed=0):
    return next(Loader(SAMPLES, 16, seed=derive_seed(seed, "data")).epoch(0))


def test_build_makes_the_regressor_for_both_widths():
    distiller = distiller_of()
    assert {name.split(".")[0] for name, _ in distiller.named_parameters()} == {"student"}
    distiller.build(first_batch())
    regressor = distiller.objective.terms["hint"].regressor
    assert regressor.weight.shape == (10, 6)
    assert {id(parameter) for parameter in regressor.parameters()} <= {id(p) for p in distiller.parameters()}
    assert not any("regressor" in name for name in distiller.student.state_dict())
    assert {f"objective.terms.hint.regressor.{name}" for name in ("weight", "bias")} <= set(distiller.state_dict())


MADE = logging.getLogger("made")  # of which a training knows the name alone


def test_the_regressor_learns_with_the_student_and_stays_behind(tmp_path):
    MADE.states = made = []

    class Watching(Hint):
        def build(self, outputs, setup):
            super().build(outputs, setup)
            MADE.states.append(state(self.regressor))

    distiller = distiller_of(Watching(0.1), HardLabels())
    body, teacher = state(distiller.student), distiller.teacher.fingerprint()
    stopped = []

    def crash(look):
        if look.epoch_ended and not stopped:
            stopped.append(look)
            raise Crash

    options = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0.0, "folder": tmp_path}
    with pytest.raises(Crash):
        fit(distiller, SAMPLES, watch=crash, **options)
    held = load_file(newest(tmp_path / "checkpoints") / "tensors.safetensors")
    kept = held["model.objective.terms.hint.regressor.weight"]
    assert torch.equal(kept, distiller.objective.terms["hint"].regressor.weight)
    assert len([name for name in held if name.startswith("optimizer.")]) == len(list(distiller.parameters()))

    result = fit(distiller_of(Watching(0.1), HardLabels()), SAMPLES, **options)
    regressor = distiller.objective.terms["hint"].regressor
    assert len(made) == 2  # once for each process
    assert not torch.equal(regressor.weight, made[0]["weight"])
    assert not torch.equal(regressor.bias, made[0]["bias"])
    assert changed(body, result.student) == {"body", "middle", "last", "head"}
    assert distiller.teacher.fingerprint() == teacher

    exported = load_file(tmp_path / "student.safetensors")
    assert set(exported) == set(student_of().state_dict())
    bare = student_of(seed=8)
    load_weights(bare, tmp_path / "student.safetensors")
    assert changed(state(result.student), bare) == set()


def test_a_hint_is_its_formula_and_its_gradient_ends_where_it_is_read():
    distiller = distiller_of(Hint()).eval()
    batch = first_batch()
    distiller.build(batch)
    loss = distiller(batch)
    regressor, student, teacher = (
        distiller.objective.terms["hint"].regressor,
        distiller.student,
        distiller.teacher.model,
    )
    hidden = student.body(batch.inputs)
    with torch.no_grad():
        wanted = teacher.act(teacher.norm(teacher.body(batch.inputs)))
    expected = 0.5 * (hidden @ regressor.weight.T + regressor.bias - wanted).square().sum(1).mean()
    torch.testing.assert_close(loss.total, expected)
    gradients = torch.autograd.grad(expected, [student.body.lower.weight, regressor.weight])
    loss.total.backward()
    torch.testing.assert_close(student.body.lower.weight.grad, gradients[0])
    torch.testing.assert_close(regressor.weight.grad, gradients[1])
    assert student.head.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_fit_with_a_hint_is_the_plain_loop_bit_for_bit():
    by_fit, by_hand = (
        distiller_of(Hint(0.1), SoftTargets(temperature=2.0)),
        distiller_of(Hint(0.1), SoftTargets(temperature=2.0)),
    )
    fit(by_fit, SAMPLES, epochs=2, batch_size=16, learning_rate=0.05, schedule="constant")
    loader = Loader(SAMPLES, 16, seed=derive_seed(0, "data"))
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "dropout", 0))
        by_hand.build(first_batch())
        sgd = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, fused=True)
        by_hand.train()
        for step, batch in enumerate(batch for epoch in range(2) for batch in loader.epoch(epoch)):
            by_hand(batch, step).total.backward()
            sgd.step()
            sgd.zero_grad()
    mine, theirs = by_fit.state_dict(), by_hand.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert any("regressor" in name for name in theirs)


def test_a_hint_between_images_of_other_depths():
    torch.manual_seed(0)
    images = TensorSet.of(torch.rand(20, 1, 6, 6), torch.arange(20) % 4)
    student = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    teacher = nn.Sequential(nn.Conv2d(1, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(112, 4))
    distiller = Distiller(student, ModelTeacher(teacher), Objective([Hint(student="1", teacher="1")]))
    history = fit(distiller, images, epochs=4, batch_size=10, learning_rate=0.002).history
    assert distiller.objective.terms["hint"].regressor.weight.shape == (7, 3, 1, 1)
    assert history[-1]["train"]["hint"] < history[0]["train"]["hint"]


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        (Hint(student="bodi"), "feature 'hint': the model has no module 'bodi'; did you mean 'body'?"),
        (Hint(student="body.norms"), "feature 'hint': the model has no module 'body.norms'; did you mean 'body.norm'?"),
        (Hint(teacher="atc"), "feature 'hint': the model has no module 'atc'; did you mean 'act'?"),
    ],
    ids=["student", "inner", "teacher"],
)
def test_a_hint_from_where_nothing_is_gets_the_nearest_path(hint, says):
    with pytest.raises(ModelError) as caught:
        fit(distiller_of(hint), SAMPLES, epochs=1)
    assert says in str(caught.value)


def test_two_hints_have_a_regressor_each():
    distiller = distiller_of(Hint(), Hint(student="middle", teacher="body", name="second"))
    distiller.build(first_batch())
    shapes = {name: tuple(term.regressor.weight.shape) for name, term in distiller.objective.terms.items()}
    assert shapes == {"hint": (10, 6), "second": (10, 5)}
    assert sorted(distiller(first_batch()).parts) == ["hint", "second"]


# --------------------------------------------------------------------------------- features that are changed afterwards


def test_a_feature_that_a_later_module_changes_in_place_is_refused():
    student = student_of(inplace=True)
    with pytest.raises(ModelError) as caught:
        fit(distiller_of(Hint(student="body.norm"), student=student), SAMPLES, epochs=1)
    assert str(caught.value) == (
        "feature 'hint': a later module changed the output of 'body.norm' in place (a ReLU with inplace=True, say); "
        "set inplace=False there, or read a copy: Tap(path, torch.clone)"
    )


def test_the_mends_that_the_line_names_give_the_value_as_it_was():
    batch = Batch.of(torch.randn(6, 3))
    for train in (True, False):
        expected = run_model(student_of().train(train), batch.inputs, {"x": "body.norm"}).features["x"]
        copied = run_model(student_of(inplace=True).train(train), batch.inputs, {"x": Tap("body.norm", torch.clone)})
        assert torch.equal(copied.features["x"], expected)
        assert bool((expected < 0).any())


def test_a_feature_that_was_changed_in_place_before_it_was_read_is_as_good_as_any():
    expected = run_model(student_of().eval(), torch.ones(2, 3), {"x": "body.act"}).features["x"]
    found = run_model(student_of(inplace=True).eval(), torch.ones(2, 3), {"x": "body.act"}).features["x"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
def test_a_teachers_feature_is_looked_after_too(scope):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))
    with pytest.raises(ModelError, match="changed the output of '0' in place"):
        ModelTeacher(model, taps={"x": "0"})(Batch.of(torch.randn(4, 3)))
    with scope():  # tensors of inference mode count no changes, and reading them is no error
        features = run_model(model, torch.randn(4, 3), {"x": "1"}).features
    assert bool((features["x"] >= 0).all())
