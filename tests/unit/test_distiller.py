"""Student, teacher and objective as one module: who trains, who never does, and what is saved."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from limbeck import methods, schedules
from limbeck.batch import Batch
from limbeck.distiller import Distiller, warn_of_probabilities
from limbeck.errors import InputError, ModelError, ModelWarning
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.tasks import REGRESSION
from limbeck.teacher import Teacher
from limbeck.teachers.model import ModelTeacher, state_digest
from limbeck.terms import HardLabels, SoftTargets
from walk import over


def network(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 4))


def batch_of(size=6):
    return Batch.of(torch.randn(size, 3), torch.randint(4, (size,)))


def distiller_of(objective=None):
    return Distiller(network(1), ModelTeacher(network(2, width=16)), objective or methods.kd(temperature=2.0))


class Counting:
    """A teacher that counts how often it is asked."""

    def __init__(self):
        self.calls, self.device = 0, None

    def __call__(self, batch):
        self.calls += 1
        return Outputs(torch.zeros(len(batch), 4))

    def to(self, device):
        self.device = device
        return self

    def fingerprint(self):
        return "counting"


class Projection(Term):
    """Regresses the teacher's logits through a layer that is made when shapes are known."""

    reads = frozenset({"student", "teacher"})

    def build(self, outputs, setup):
        self.layer = nn.Linear(outputs["student"].logits.shape[-1], outputs["teacher"].logits.shape[-1])

    def sum(self, outputs, batch, step):
        return (self.layer(outputs["student"].logits) - outputs["teacher"].logits).square().sum()


# -------------------------------------------------------------------------------- the teacher is no part of the student


def test_the_teacher_is_in_no_state_no_parameters_and_no_modules():
    distiller = distiller_of()
    teacher = distiller.teacher.model
    assert {name.split(".")[0] for name in distiller.state_dict()} == {"student"}
    assert len(distiller.state_dict()) == len(distiller.student.state_dict())
    own = {id(parameter) for parameter in distiller.parameters()}
    assert own == {id(parameter) for parameter in distiller.student.parameters()}
    assert not own & {id(parameter) for parameter in teacher.parameters()}
    assert not {id(buffer) for buffer in distiller.buffers()} & {id(buffer) for buffer in teacher.buffers()}
    assert not {id(module) for module in distiller.modules()} & {id(module) for module in teacher.modules()}


def test_the_teacher_needs_no_gradient_and_its_answers_have_no_graph():
    teacher = ModelTeacher(network())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    batch = batch_of()
    batch.inputs.requires_grad_()
    outputs = teacher(batch)
    assert not outputs.logits.requires_grad
    assert outputs.logits.grad_fn is None
    tapped = ModelTeacher(network(), taps={"hidden": "0"})(batch)
    assert not tapped.features["hidden"].requires_grad


def test_the_forward_pass_of_the_teacher_builds_no_graph():
    modes = []
    teacher = ModelTeacher(network())
    teacher.model.register_forward_hook(lambda module, inputs, output: modes.append(torch.is_grad_enabled()))
    Distiller(network(), teacher, methods.kd())(batch_of())
    assert modes == [False]
    assert torch.is_grad_enabled()


def test_the_teacher_is_untouched_when_the_student_learns():
    distiller = distiller_of()
    teacher = distiller.teacher
    before, student_before = teacher.fingerprint(), state_digest(distiller.student)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller.train()
    for _ in range(5):
        optimizer.zero_grad()
        distiller(batch_of()).total.backward()
        optimizer.step()
    assert teacher.fingerprint() == before
    assert state_digest(distiller.student) != student_before
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_gradients_reach_every_parameter_of_the_student():
    distiller = distiller_of()
    distiller(batch_of(64)).total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in distiller.student.parameters())


# ------------------------------------------------------------------------------------------------------- train and eval


def test_the_teacher_stays_in_eval_when_the_distiller_trains_and_the_student_follows_the_distiller():
    distiller = distiller_of()
    for mode in (True, False, True):
        distiller.train(mode)
        distiller(batch_of())
        assert all(module.training is mode for module in distiller.student.modules())
        assert not any(module.training for module in distiller.teacher.model.modules())


def test_the_student_still_trains_in_the_second_epoch_after_an_evaluation():
    distiller = distiller_of()
    statistics = distiller.student[1].running_mean
    for _ in range(2):
        distiller.train()
        before = statistics.clone()
        distiller(batch_of())
        assert distiller.student.training
        assert not torch.equal(statistics, before)
        distiller.eval()
        before = statistics.clone()
        with torch.no_grad():
            distiller(batch_of())
        assert torch.equal(statistics, before)


@pytest.mark.parametrize("part", ["the whole", "a layer"])
def test_a_teacher_with_dropout_gives_one_answer_even_when_someone_put_it_in_train_mode(part):
    teacher = ModelTeacher(network())
    batch = batch_of()
    expected, digest = teacher(batch).logits, teacher.fingerprint()
    (teacher.model if part == "the whole" else nn.ModuleList([teacher.model[1], teacher.model[3]])).train()
    for _ in range(3):
        assert torch.equal(teacher(batch).logits, expected)
    assert teacher.fingerprint() == digest


def test_the_answer_of_a_teacher_does_not_depend_on_how_the_batch_is_cut():
    teacher = ModelTeacher(network().double())
    batch = Batch.of(torch.randn(6, 3, dtype=torch.float64))
    singles = [teacher(Batch.of(row[None])).logits for row in batch.inputs]
    torch.testing.assert_close(teacher(batch).logits, torch.cat(singles), rtol=1e-12, atol=1e-14)


def test_a_part_that_student_and_teacher_share_trains_on_in_the_student():
    shared = nn.Dropout(0.5)
    teacher = ModelTeacher(nn.Sequential(nn.Linear(3, 4), shared))
    distiller = Distiller(nn.Sequential(nn.Linear(3, 4), shared), teacher, methods.kd()).train()
    answers = [teacher(Batch.of(torch.ones(2, 3))).logits for _ in range(2)]
    assert torch.equal(*answers)
    distiller(batch_of())
    assert shared.training


# ---------------------------------------------------------------------------------------------- what is run and refused


def test_a_plain_network_teaches_as_a_model_teacher_does_and_stays_as_it_is():
    teacher, batch = network(2, width=16), batch_of()
    teacher[0].weight.requires_grad_(False)
    teacher[1].eval()
    state = copy.deepcopy(teacher.state_dict())
    flags = [weights.requires_grad for weights in teacher.parameters()]
    modes = [module.training for module in teacher.modules()]
    frozen = ModelTeacher(copy.deepcopy(teacher))
    plain, wrapped = (Distiller(network(1), each, methods.kd()) for each in (teacher, frozen))
    torch.manual_seed(3)
    plain(batch).total.backward()
    torch.manual_seed(3)
    wrapped(batch).total.backward()
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(weights.grad is None for weights in teacher.parameters())
    assert flags == [weights.requires_grad for weights in teacher.parameters()]
    assert modes == [module.training for module in teacher.modules()]
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert plain.teacher.fingerprint() == wrapped.teacher.fingerprint()
    assert modes == [module.training for module in teacher.modules()]


def test_a_plain_network_with_lazy_layers_keeps_its_flags():
    teacher = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 4))
    Distiller(network(1), teacher, methods.kd())(batch_of())
    assert all(weights.requires_grad for weights in teacher.parameters())
    assert teacher.training


def test_without_an_objective_it_distills_as_kd_does():
    student, teacher, batch = network(1).eval(), network(2), batch_of()
    assert torch.equal(Distiller(student, teacher)(batch).total, Distiller(student, teacher, methods.kd())(batch).total)
    for given in ((), (None,), (None, None)):
        with pytest.raises(InputError, match=r"teacher: found None and no objective; .*limbeck.methods.hard\(\)"):
            Distiller(student, *given)


def test_a_student_may_share_with_a_plain_teacher_only_what_does_not_learn():
    body = nn.Linear(3, 8)
    student, teacher = (nn.Sequential(body, nn.Linear(8, 4)) for _ in range(2))
    with pytest.raises(ModelError, match=r"parameter '0.weight' is the teacher's too, and would change the teacher"):
        Distiller(student, teacher)
    body.requires_grad_(False)
    Distiller(student, teacher)


@pytest.mark.parametrize("teacher", [lambda batch: None, "teacher", 3], ids=["function", "string", "number"])
def test_something_that_is_no_teacher_is_refused(teacher):
    with pytest.raises(InputError, match=r"teacher: found .*, expected a teacher or a torch.nn.Module"):
        Distiller(network(), teacher, methods.kd())


def test_no_teacher_for_an_objective_that_reads_one_is_refused():
    with pytest.raises(InputError, match="teacher: found None, but the objective reads a teacher"):
        Distiller(network(), None, methods.kd())


def test_no_teacher_for_an_objective_that_reads_one_only_later_is_refused_at_once():
    objective = Objective([HardLabels(), SoftTargets(schedules.linear(0.0, 1.0, steps=10))])
    with pytest.raises(InputError, match="teacher: found None, but the objective reads a teacher; give one"):
        Distiller(network(), None, objective)


def test_a_student_on_its_own_needs_no_teacher():
    distiller = Distiller(network(), None, methods.hard())
    assert distiller.teacher is None
    loss = distiller.prepare("cpu")(batch_of())
    assert set(loss.parts) == {"hard"}


def test_a_teacher_that_no_active_term_reads_is_not_run():
    teacher = Counting()
    objective = Objective([HardLabels(), SoftTargets(schedules.until(2, 1.0))])
    distiller = Distiller(network(), teacher, objective)
    assert isinstance(teacher, Teacher)
    for step, calls in [(0, 1), (1, 2), (2, 2), (3, 2)]:
        distiller(batch_of(), step=step)
        assert teacher.calls == calls
    Distiller(network(), teacher, methods.hard())(batch_of())
    assert teacher.calls == 2


@pytest.mark.parametrize(
    "term",
    [
        HardLabels(schedules.linear(1.0, 0.0, steps=4)),
        SoftTargets(temperature=lambda step: 1.0 + step),
        SoftTargets(schedules.warmup(1.0, steps=9)),
    ],
    ids=["weight", "temperature", "warmup"],
)
def test_a_schedule_without_a_step_is_refused_and_numbers_need_none(term):
    batch = batch_of()
    constant = Distiller(network(), Counting(), Objective([HardLabels(), SoftTargets()])).eval()
    assert torch.equal(constant(batch).total, constant(batch, step=7).total)
    distiller = Distiller(network(), Counting(), Objective([term, HardLabels(name="other")])).eval()
    for call in (distiller, lambda batch: distiller.objective(distiller.outputs(batch, 0), batch)):
        with pytest.raises(InputError, match=r"^step: found None, but .* changes with it; .*set distiller\.step"):
            call(batch)
    distiller.step = 3
    assert torch.equal(distiller(batch).total, distiller(batch, step=3).total)


def test_the_step_of_the_distiller_is_read_where_none_is_given():
    distiller = Distiller(network(), Counting(), Objective([HardLabels(), SoftTargets(schedules.until(2, 1.0))]))
    distiller.step = 0
    assert set(distiller(batch_of()).parts) == {"hard", "soft"}
    distiller.step = 2
    assert set(distiller(batch_of()).parts) == {"hard"}
    assert set(distiller(batch_of(), step=0).parts) == {"hard", "soft"}


def test_counts_given_to_the_distiller_reach_the_objective():
    distiller = distiller_of().eval()
    batch = batch_of(6)
    own, half = distiller(batch), distiller(batch, counts={"hard": 12, "soft": 12})
    torch.testing.assert_close(half.total, own.total / 2)


def test_the_loss_of_a_distiller_is_that_of_its_objective_on_the_logits_of_both():
    distiller = distiller_of().eval()
    batch = batch_of()
    outputs = {
        "student": Outputs(distiller.student(batch.inputs)),
        "teacher": Outputs(distiller.teacher.model(batch.inputs)),
    }
    torch.testing.assert_close(distiller(batch).total, distiller.objective(outputs, batch).total)


def test_prepare_places_the_teacher_too():
    teacher = Counting()
    distiller = Distiller(network(), teacher, methods.kd())
    assert distiller.prepare("cpu") is distiller
    assert teacher.device == "cpu"
    meta = Distiller(network(), ModelTeacher(network()), methods.kd()).prepare("meta")
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in meta.teacher.model.parameters()} == {"meta"}


# ------------------------------------------------------------------------------------------------- views of the teacher


def test_a_teacher_reads_the_view_that_it_is_told_to():
    teacher = ModelTeacher(network(), view="clean")
    batch = batch_of()
    batch.views["clean"] = torch.randn(6, 3)
    torch.testing.assert_close(teacher(batch).logits, teacher.model(batch.views["clean"]))
    assert not torch.equal(teacher(batch).logits, ModelTeacher(teacher.model)(batch).logits)


@pytest.mark.parametrize(
    ("views", "says"),
    [({}, "it has none"), ({"clean": 0}, r"did you mean 'clean'\?"), ({"noised": 0}, "one of: noised")],
)
def test_a_view_that_the_batch_lacks_is_refused(views, says):
    batch = batch_of()
    batch.views.update(views)
    with pytest.raises(InputError, match=f"teacher view: the batch has no view 'cleen'; {says}$"):
        ModelTeacher(network(), view="cleen")(batch)


def test_a_teacher_may_transform_what_it_sees_and_the_student_does_not_see_it():
    teacher = ModelTeacher(network(), transform=lambda x: 2 * x)
    batch = batch_of()
    before = batch.inputs.clone()
    torch.testing.assert_close(teacher(batch).logits, teacher.model(2 * before))
    assert torch.equal(batch.inputs, before)
    both = ModelTeacher(teacher.model, transform=lambda x: -x, view="clean")
    batch.views["clean"] = torch.ones(6, 3)
    torch.testing.assert_close(both(batch).logits, teacher.model(-torch.ones(6, 3)))


def test_a_teacher_gives_the_features_it_is_asked_for():
    teacher = ModelTeacher(network(), taps={"hidden": "0"})
    batch = batch_of()
    torch.testing.assert_close(teacher(batch).features["hidden"], teacher.model[0](batch.inputs))


def test_a_teacher_with_a_misspelt_tap_says_which():
    with pytest.raises(ModelError, match="feature 'hidden': the model has no module '00'"):
        ModelTeacher(network(), taps={"hidden": "00"})(batch_of())


# ---------------------------------------------------------------------------------------------------------------- build


def test_build_makes_what_depends_on_shapes_without_training_anything():
    distiller = distiller_of(Objective([HardLabels(), Projection("projection")])).train()
    distiller.student[1].eval()  # a frozen normalisation, say
    modes = {name: module.training for name, module in distiller.student.named_modules()}
    before = state_digest(distiller.student), distiller.teacher.fingerprint()
    distiller.build(batch_of())
    assert set(modes.values()) == {True, False}
    assert {name: module.training for name, module in distiller.student.named_modules()} == modes
    assert (state_digest(distiller.student), distiller.teacher.fingerprint()) == before
    assert not any(parameter.grad is not None for parameter in distiller.parameters())
    assert "objective.terms.projection.layer.weight" in distiller.state_dict()
    distiller(batch_of()).total.backward()
    assert distiller.objective.terms["projection"].layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_build_gives_the_student_back_its_mode_even_when_a_model_fails(training):
    distiller = distiller_of().train(training)
    with pytest.raises(ModelError, match=r"^student: its forward raised RuntimeError"):
        distiller.build(Batch.of(torch.randn(2, 99)))
    assert all(module.training is training for module in distiller.student.modules())


# ----------------------------------------------------------------------------------------------------- copy, save, load


def test_a_deep_copy_learns_on_its_own_and_has_a_teacher_of_its_own():
    distiller = distiller_of()
    twin = copy.deepcopy(distiller)
    digest = state_digest(distiller.student)
    assert twin.teacher is not distiller.teacher
    assert twin.teacher.fingerprint() == distiller.teacher.fingerprint()
    batch = batch_of()
    torch.testing.assert_close(twin.eval()(batch).total, distiller.eval()(batch).total, rtol=0, atol=0)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(batch).total.backward()
    optimizer.step()
    assert state_digest(distiller.student) == digest
    assert state_digest(twin.student) != digest


def test_the_state_of_a_distiller_survives_a_file_without_pickle():
    distiller = distiller_of(Objective([HardLabels(), Projection("projection")]))
    batch = batch_of()
    distiller.build(batch)
    stored = save(distiller.state_dict())
    other = Distiller(network(7), distiller.teacher, Objective([HardLabels(), Projection("projection")]))
    other.build(batch)
    assert state_digest(other) != state_digest(distiller)
    other.load_state_dict(load(stored))
    assert state_digest(other) == state_digest(distiller)
    torch.testing.assert_close(other.eval()(batch).total, distiller.eval()(batch).total, rtol=0, atol=0)


def test_the_student_alone_is_what_one_exports():
    distiller = distiller_of()
    fresh = network(9)
    fresh.load_state_dict(distiller.student.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(fresh.eval()(x), distiller.student.eval()(x))


# ------------------------------------------------------------------------------------------------------ the fingerprint


@over("change", ["weight", "buffer", "dtype", "name", "shape"])
def test_a_fingerprint_changes_with_anything_in_the_state(change):
    plain, other = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    assert state_digest(plain) == state_digest(other)
    with torch.no_grad():
        if change == "weight":
            other[0].weight[1, 1] += 1e-7
        elif change == "buffer":
            other[1].num_batches_tracked += 1
        elif change == "dtype":
            other.double()
        elif change == "name":
            other.add_module("more", nn.Identity())
            other = nn.Sequential(other)
        else:
            other[0].weight = nn.Parameter(other[0].weight.reshape(1, 4))
    assert state_digest(plain) != state_digest(other)


def test_a_fingerprint_tells_apart_equal_bytes_of_another_dtype():
    floats, integers = nn.Module(), nn.Module()
    floats.register_buffer("x", torch.zeros(2))
    integers.register_buffer("x", torch.zeros(2, dtype=torch.int32))
    assert state_digest(floats) != state_digest(integers)


@over("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int8])
def test_a_fingerprint_reads_any_dtype_shape_and_layout(dtype):
    module = nn.Module()
    module.register_buffer("scalar", torch.ones((), dtype=dtype))
    module.register_buffer("empty", torch.ones(0, 3, dtype=dtype))
    module.register_buffer("strided", torch.ones(3, 2, dtype=dtype).t())
    digest = state_digest(module)
    module.strided = module.strided.contiguous()
    assert state_digest(module) == digest


def test_what_a_teacher_answers_at_padding_does_not_keep_a_training_from_starting():
    mask = torch.tensor([[True, True, False], [True, False, False]])

    class AtPadding(nn.Module):
        def __init__(self, everywhere):
            super().__init__()
            self.table, self.everywhere = nn.Embedding(5, 4), everywhere

        def forward(self, ids):
            spoilt = torch.ones_like(mask) if self.everywhere else ~mask
            return self.table(ids).masked_fill(spoilt[..., None], float("nan"))

    batch = Batch.of(torch.randint(5, (2, 3)), mask=mask)
    for everywhere in (False, True):
        student, teacher = nn.Embedding(5, 4), ModelTeacher(AtPadding(everywhere))
        distiller = Distiller(student, teacher, methods.kd(soft_weight=1.0, hard_weight=0.0))
        if everywhere:
            with pytest.raises(ModelError, match=r"teacher: answers NaN or \+inf for 2 of 2 samples"):
                distiller.build(batch)
        else:
            distiller.build(batch)


def test_a_student_that_fails_is_named_although_its_teacher_answers_nan_at_padding():
    mask = torch.tensor([[True, True, False], [True, False, False]])

    class AtPadding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)

        def forward(self, ids):
            return self.table(ids).masked_fill(~mask[..., None], float("nan"))

    batch = Batch.of(torch.randint(5, (2, 3)), mask=mask)
    distiller = Distiller(nn.Embedding(5, 4), ModelTeacher(AtPadding()), methods.kd(soft_weight=1.0, hard_weight=0.0))
    distiller(batch)
    assert not bool(distiller.teacher_failed)
    broken = Distiller(nn.Embedding(5, 4), ModelTeacher(AtPadding()), methods.kd(soft_weight=1.0, hard_weight=0.0))
    broken(Batch.of(torch.randint(5, (2, 3)), mask=torch.ones_like(mask)))
    assert bool(broken.teacher_failed)


def test_a_batch_that_is_none_is_refused():
    distiller = Distiller(nn.Linear(3, 4), nn.Linear(3, 4))
    for wrong in ((torch.zeros(2, 3), torch.zeros(2)), torch.zeros(2, 3)):
        with pytest.raises(InputError, match=rf"^batch: found a {type(wrong).__name__}, expected limbeck.Batch.of"):
            distiller(wrong)


@pytest.mark.parametrize("which", ["student", "teacher"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_answers_that_are_probabilities_are_warned_of(which, precision):
    networks = {"student": network(1), "teacher": network(2)}
    networks[which] = nn.Sequential(networks[which], nn.Softmax(1))
    networks = {name: each.to(precision) for name, each in networks.items()}
    distiller = Distiller(networks["student"], ModelTeacher(networks["teacher"]), methods.kd())
    name = {"student": "model"}.get(which, which)
    with pytest.warns(ModelWarning, match=f"^{name}: .*Leave out the softmax at the end of the {name}$") as caught:
        distiller.build(batch_of())
    assert len(caught) == 1


@pytest.mark.parametrize(
    "last", [nn.LogSoftmax(1), nn.Sigmoid(), nn.Hardtanh(0.0, 1.0)], ids=lambda last: type(last).__name__
)
def test_other_answers_are_taken_without_a_word(last):
    teacher = ModelTeacher(nn.Sequential(network(2), last))
    Distiller(network(1), teacher, methods.kd()).build(batch_of())  # a warning would be an error


def test_numbers_to_predict_may_add_up_to_one():
    torch.manual_seed(0)
    student = nn.Sequential(network(1), nn.Softmax(1))
    batch = Batch.of(torch.randn(6, 3), torch.rand(6, 4), task=REGRESSION)
    Distiller(student, None, methods.hard()).build(batch)
    with pytest.warns(ModelWarning, match="^model: "):
        Distiller(student, None, methods.hard()).build(batch_of())


def test_of_many_answers_few_are_looked_at(monkeypatch):
    asked = []
    plain = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: asked.append(tensor.shape) or plain(tensor))
    probabilities = torch.full((1, 1, 1), 0.25).expand(500, 300, 4)
    with pytest.warns(ModelWarning, match="^model: "):
        warn_of_probabilities("model", Outputs(probabilities))
    assert asked == [(8, 8, 4)]
    warn_of_probabilities("model", Outputs(torch.full((1, 4), 0.25)))  # a single answer says nothing
