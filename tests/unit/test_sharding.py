"""What cannot be divided among processes is refused in one line; which parts of networks are gathered by themselves."""

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods, targets
from limbeck.errors import InputError, ModelError
from limbeck.identity import weights_digest
from limbeck.models import lstm_lm, resnet, transformer
from limbeck.objective import Objective
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Job, attempt_many, dividing, sharding
from limbeck.training.identity import identity_of

DATA = lb.data.TensorSet.of(torch.randn(16, 3), torch.arange(16) % 4, classes=4)


@pytest.fixture
def several(monkeypatch):
    """Let this process take itself for one of two, up to the first thing that they would do together."""
    monkeypatch.setattr(sharding, "world_size", lambda: 2)


def net(*more):
    return nn.Sequential(nn.Linear(3, 5), *more, nn.Linear(5, 4))


def refused(student=None, teacher=None, method=None, **settings):
    settings = {"fsdp": "both", "epochs": 1} | settings
    distiller = lb.Distiller(net() if student is None else student, net() if teacher is None else teacher, method)
    with pytest.raises((InputError, ModelError)) as caught:
        lb.fit(distiller, DATA, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_process_has_nobody_to_share_with():
    assert refused().startswith("fsdp: found 'both' in one process; expected several, among which parameters")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"compile": True}, "compile: found together with fsdp"),
        ({"chunked_head": True}, "chunked_head: found together with fsdp"),
        ({"max_norm": 1.0}, "max_norm: found 1.0 together with fsdp of the student"),
        ({"memory_format": "channels_last"}, "memory_format: found channels_last together with fsdp of the student"),
        ({"fsdp": "all"}, "fsdp: found 'all'"),
    ],
)
def test_settings_that_fsdp_is_not_built_for_are_refused(several, settings, line):
    assert line in refused(**settings)


def scalar():
    network = net()
    network.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    return network


def masked():
    network = net()
    network.before_step = []
    network.before_step.append(lambda student, step: None)
    return network


def sharing():
    student = net()
    student[2 - 1].requires_grad_(False)
    return student, nn.Sequential(nn.Linear(3, 5), student[1])


@pytest.mark.parametrize(
    ("student", "method", "line"),
    [
        (net, methods.input_gradient, "differentiates a gradient of the student"),
        (net, lambda: methods.hint({"0": "0"}), "learns weights of its own (hint"),
        (scalar, methods.kd, "parameter 'scale' is a single number"),
        (masked, methods.kd, "weights are masked anew at each step"),
        (lambda: net(nn.LazyLinear(5)), methods.kd, "lazy layers without weights in the student"),
        (lambda: nn.Sequential(net(), torch.compile(nn.Linear(4, 4), backend="eager")), methods.kd, "torch.compile"),
    ],
)
def test_students_and_terms_that_fsdp_cannot_have_are_refused(several, student, method, line, monkeypatch):
    monkeypatch.setattr("limbeck.training.loop.sharded", _whole)
    assert line in refused(student(), method=method(), fsdp="student")


class _whole:
    """In place of `sharded`: networks as they are, for what is refused once the terms are built."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return sharding.Shards()

    def __exit__(self, *_):
        pass


def test_a_student_with_modules_of_its_teacher_is_refused(several):
    student, teacher = sharing()
    assert "the student's parameter '1.weight' is the teacher's too" in refused(student, teacher)


@pytest.mark.parametrize(
    ("teacher", "method", "line"),
    [
        (lambda: lb.store(ModelTeacher(net()), DATA), methods.kd, "a teacher (StoredTeacher) that is no network"),
        (net, lambda: methods.kd(target=targets.SimilarClasses()), "reads weights of the teacher"),
        (net, methods.input_gradient, "differentiates the teacher"),
        (scalar, methods.kd, "the teacher's parameter 'scale' is a single number"),
    ],
)
def test_teachers_that_cannot_be_divided_are_refused(several, teacher, method, line):
    assert line in refused(None, teacher(), method(), fsdp="teacher")


def test_what_trains_several_students_is_refused(several):
    objective = Objective([HardLabels()])
    distillers = [lb.Distiller(net(), None, objective), lb.Distiller(net(), None, Objective([HardLabels()]))]
    with pytest.raises(InputError, match="fsdp: found 'student' for 2 students that are trained together"):
        attempt_many(distillers, DATA, training=lb.Training(epochs=1, fsdp="student"))
    with pytest.raises(InputError, match="kept along its training"):
        Job(distillers[0], DATA, training=lb.Training(epochs=2, fsdp="student"), along=[1])


def test_only_a_plain_distiller_is_divided(several):
    class Other(lb.Distiller):
        pass

    with pytest.raises(InputError, match="fsdp: found a Other; expected a student with a teacher"):
        lb.fit(Other(net(), net(), Objective([SoftTargets()])), DATA, epochs=1, fsdp="student")


def test_how_networks_are_divided_does_not_tell_trainings_apart():
    distiller = lb.Distiller(net(), None, methods.hard())
    plain, other = (identity_of(distiller, DATA, None, lb.Training(fsdp=fsdp), 0) for fsdp in ("none", "both"))
    assert plain == other


def named(network):
    paths = {id(module): path for path, module in network.named_modules()}
    return [paths[id(unit)] for unit in dividing.units_of(network)]


def test_blocks_are_gathered_by_themselves_and_what_is_used_by_others_is_not():
    assert named(transformer((8,), 2, vocabulary=20, layers=3, width=8, heads=2)) == [
        "layers.0",
        "layers.1",
        "layers.2",
    ]
    assert named(resnet((3, 8, 8), 10, depth=8)) == ["stem", "stage1", "stage2", "stage3", "fc"]
    assert named(lstm_lm((6,), 20, vocabulary=20, embedding=6, hidden=6)) == []
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert named(tied) == ["3"]


def test_the_digest_of_a_teacher_tells_weights_apart():
    teacher = ModelTeacher(net())
    sharded = sharding.ShardedTeacher(teacher, teacher.model, teacher.fingerprint())
    before = sharded.weights_digest()
    assert sharded.fingerprint() == teacher.fingerprint()
    assert before == weights_digest(teacher.model)  # of whole weights
    with torch.no_grad():
        teacher.model[0].bias.add_(1.0)
    assert sharded.weights_digest() != before
    with pytest.raises(InputError, match="teacher: found divided parameters"):
        sharding.ShardedTeacher(teacher, teacher.model, None).fingerprint()


def test_a_network_that_fsdp_refuses_half_way_keeps_its_weights(monkeypatch):
    units = []

    def refusing(unit, **_):
        units.append(unit)
        if len(units) > 1:
            raise RuntimeError("not this one")

    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", refusing)
    network = net(nn.ReLU())
    before = {name: each.clone() for name, each in network.state_dict().items()}
    with pytest.raises(ModelError, match=r"fsdp: the student cannot be divided \(not this one\)"):
        dividing.Divided(network, None, "student")
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
