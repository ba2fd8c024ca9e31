"""FSDP2 in a training: a student, and a teacher apart from it, divided among the processes, and what is refused."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, NonFiniteLossError
from limbeck.identity import weights_digest
from limbeck.networks import check_network, is_lazy, is_sharded, networks_of, own_part
from limbeck.outputs import Tap, tapped
from limbeck.ranks import first_says, same_in_all, world_size
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, ModelTeacher
from limbeck.training.dividing import Divided
from limbeck.training.settings import Training

__all__ = ["Shards", "check_built", "check_launch", "check_sharding", "heed_features", "placed_apart", "sharded"]

_WHY = "leave fsdp out"


# ------------------------------------------------------------------------------------------------------ what is refused


def check_launch(training: Training) -> None:
    """Require several processes for a training whose networks are divided among them; InputError otherwise."""
    if training.fsdp != "none" and world_size() == 1:
        raise InputError(
            f"fsdp: found '{training.fsdp}' in one process; expected several, among which parameters are divided. Start"
            f" them with torchrun, or {_WHY}"
        )


def check_sharding(distiller: Distiller, training: Training) -> None:
    """Require networks, terms and settings that `training.fsdp` can be used with; one line otherwise."""
    if training.fsdp == "none":
        return
    if type(distiller) is not Distiller:
        raise InputError(
            f"fsdp: found a {type(distiller).__name__}; expected a student with a teacher that stays as it is; {_WHY}"
        )
    for key, used in (("compile", training.compile), ("chunked_head", training.chunked_head)):
        if used:
            raise InputError(f"{key}: found together with fsdp, which it is not built for; leave one of them out")
    if training.student_sharded:
        _check_student(distiller, training)
    if training.teacher_sharded:
        _check_teacher(distiller)


def _check_student(distiller: Distiller, training: Training) -> None:
    student, objective = distiller.student, distiller.objective
    for key, used in (
        ("max_norm", training.max_norm is not None),
        ("memory_format", training.memory_format != "contiguous"),
        ("precision", training.precision == "fp16"),
    ):
        if used:
            found = getattr(training, key)
            raise InputError(
                f"{key}: found {found} together with fsdp of the student, which it is not built for; leave one of them"
                " out"
            )
    if objective.differentiates_twice:
        raise ModelError(f"fsdp: found a term that differentiates a gradient of the student, which FSDP cannot; {_WHY}")
    if paths := objective.reads_weights("student"):
        raise ModelError(
            f"fsdp: found a term that reads weights of the student ({', '.join(paths.values())}), of which each process"
            f" has a part; {_WHY}, or choose fsdp: teacher"
        )
    _check_whole("student", student)
    if getattr(student, "before_step", ()):
        raise ModelError(f"fsdp: found a student whose weights are masked anew at each step; {_WHY}")
    for path, module in student.named_modules():
        if getattr(module, "sparse", False):
            raise ModelError(f"fsdp: found sparse gradients of the student's '{path}'; set sparse=False, or {_WHY}")
    lent = {id(each) for network in networks_of(distiller.teacher) for each in network.parameters()}
    if shared := next((name for name, each in student.named_parameters() if id(each) in lent), None):
        raise ModelError(
            f"fsdp: the student's parameter '{shared}' is the teacher's too; give the student its own modules"
            f" (copy.deepcopy), or {_WHY}"
        )


def _check_teacher(distiller: Distiller) -> None:
    if distiller.teacher is None:
        return
    for member in _members(distiller.teacher):
        _check_whole("teacher", member.model)
    objective = distiller.objective
    if objective.reads_class_cosines or objective.reads_weights("teacher"):
        raise ModelError(
            "fsdp: found a term that reads weights of the teacher, of which each process has a part; choose fsdp:"
            f" student, or {_WHY}"
        )
    if any(getattr(term, "differentiates_teacher", False) for term in objective.terms.values()):
        raise ModelError(
            "fsdp: found a term that differentiates the teacher, which is asked for answers alone; choose fsdp:"
            f" student, or {_WHY}"
        )


def _check_whole(role: str, network: nn.Module) -> None:
    check_network(role, network)
    if is_sharded(network):
        raise ModelError(f"fsdp: found a {role} that fully_shard has divided already; give it whole, or {_WHY}")
    if is_lazy(network):
        raise ModelError(f"fsdp: found lazy layers without weights in the {role}; run it on a batch first")
    if any(hasattr(each, "_orig_mod") for each in network.modules()):
        raise ModelError(f"fsdp: found a {role} that torch.compile has wrapped; give the network itself")
    for name, each in network.named_parameters():
        if each.dim() == 0:
            raise ModelError(
                f"fsdp: the {role}'s parameter '{name}' is a single number, which FSDP cannot divide; make it a tensor"
                f" of one number, or {_WHY}"
            )


def _members(teacher: Teacher) -> list[ModelTeacher]:
    """Return the networks of a teacher that is one, or an ensemble of them; InputError for any other."""
    members = teacher.members if isinstance(teacher, EnsembleTeacher) else [teacher]
    for member in members:
        if not isinstance(member, ModelTeacher):
            raise InputError(
                f"fsdp: found a teacher ({type(member).__name__}) that is no network to be divided; expected networks"
                " that are asked for every batch. Ask it so (store: false), or choose fsdp: student"
            )
    return [member for member in members if isinstance(member, ModelTeacher)]


def check_built(distiller: Distiller, training: Training) -> None:
    """Require terms, once they are built, that learn no weights where the student is divided; ModelError otherwise."""
    if not training.student_sharded:
        return
    if own := [name for name, _ in distiller.objective.named_parameters()]:
        raise ModelError(
            f"fsdp: found a term that learns weights of its own ({own[0].removeprefix('terms.')}); expected terms"
            " without projections and banks. Choose fsdp: teacher, layers of equal sizes, or another method"
        )


# --------------------------------------------------------------------------------------------------------- the training


def placed_apart(distiller: Distiller, training: Training, device: torch.device) -> None:
    """Place on a device what is not divided; what is goes there unit by unit, so that no device holds all of it."""
    if training.fsdp == "none":
        distiller.prepare(device)
        return
    check_network("student", distiller.student)
    distiller.objective.to(device)
    if not training.student_sharded:
        distiller.student.to(device)
    if distiller.teacher is not None and not training.teacher_sharded:
        distiller.teacher.to(device)


class Shards:
    """The networks that a training has divided.  gather: makes them whole again; every process must call it."""

    def __init__(self) -> None:
        self._back: list[Callable[[], None]] = []

    def note(self, back: Callable[[], None]) -> None:
        """Note how a network becomes whole again."""
        self._back.append(back)

    def gather(self) -> None:
        """Make all networks whole again, in each process; nothing where they are."""
        while self._back:
            self._back.pop()()


@contextmanager
def sharded(distiller: Distiller, training: Training, device: torch.device, *, fingerprint: bool) -> Iterator[Shards]:
    """Divide the networks that `training.fsdp` names among the processes inside the scope.

    The scope, or an earlier `gather`, ends with whole networks in each process, the student on the device and a teacher
    where it was.  After an error other than NonFiniteLossError, which all processes have together, the networks are
    left without weights, since the other processes may have ended.
    fingerprint: whether the teacher's is needed.
    """
    shards = Shards()
    if training.fsdp == "none":
        yield shards
        return
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (world_size(),))
    student, teacher = distiller.student, distiller.teacher
    if training.student_sharded:
        same_in_all(student)
        divided = Divided(student, mesh, "student", device)

        def back() -> None:
            distiller.student = student
            divided.fill()
            divided.hand_over()

        shards.note(back)
        distiller.student = divided.copy
    try:
        if teacher is None or not training.teacher_sharded:
            yield shards
        else:
            with distiller.asking(_sharded_teacher(teacher, mesh, shards, fingerprint=fingerprint)):
                yield shards
        shards.gather()
    except NonFiniteLossError:
        shards.gather()
        raise
    finally:
        distiller.student = student


def heed_features(distiller: Distiller, training: Training) -> None:
    """Let the features that terms read of a divided student, once these are built, tell FSDP to gather weights again.

    Else the gradient of a unit's output alone does, and the loss may reach a feature inside of it and not its output.
    """
    if not training.student_sharded:
        return
    student = distiller.student
    paths = {id(module): path for path, module in student.named_modules(remove_duplicate=False)}
    for _, tap, module in tapped(student, distiller.objective.taps("student")):
        path = paths[id(module)]
        around = [each for outer, each in student.named_modules() if not outer or f"{path}.".startswith(f"{outer}.")]
        module.register_forward_hook(_waker(tap, [each for each in around if is_sharded(each, inside=False)]))


def _waker(tap: Tap, units: list[Any]) -> Callable[..., None]:
    def wake(gradient: Tensor) -> None:
        for unit in units:
            unit._get_fsdp_state()._pre_backward(gradient)  # noqa: SLF001 - FSDP's own hook, on one more tensor

    def read(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for tensor in _tensors(inputs[:1] if tap.side == "input" else output):
            if tensor.requires_grad:
                tensor.register_hook(wake)

    return read


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value
    return [tensor for each in inner for tensor in _tensors(each)] if isinstance(value, Mapping | tuple | list) else []


# ---------------------------------------------------------------------------------------------------------- the teacher


class ShardedTeacher(ModelTeacher):
    """A teacher whose network is divided: it gives the answers of the whole one, and has its fingerprint."""

    def __init__(self, teacher: ModelTeacher, model: nn.Module, fingerprint: str | None) -> None:
        vars(self).update(vars(teacher))
        self.model = model
        self._fingerprint = fingerprint

    def to(self, device: torch.device | str) -> "ShardedTeacher":
        """Return the teacher, which is where it was divided."""
        return self

    def fingerprint(self) -> str:
        """Return the fingerprint of the whole network; InputError where it was not taken."""
        if self._fingerprint is None:
            raise InputError(
                "teacher: found divided parameters (fsdp); expected whole ones. Take its fingerprint before"
            )
        return self._fingerprint

    def weights_digest(self) -> str:
        """Return the SHA-256 of this process's part of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            local = own_part(tensor).detach().cpu().contiguous()
            digest.update(f"{name} {local.dtype} {tuple(local.shape)}".encode())
            digest.update(local.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _sharded_teacher(teacher: Teacher, mesh: Any, shards: Shards, *, fingerprint: bool) -> Teacher:
    """Return a teacher that gives the answers of another with divided networks, each of them divided once."""
    members = _members(teacher)
    prints = [member.fingerprint() if fingerprint else None for member in members]
    networks = {id(member.model): member.model for member in members}
    divided = {key: _divided_teacher(network, mesh, shards) for key, network in networks.items()}
    found = [
        ShardedTeacher(member, divided[id(member.model)], known) for member, known in zip(members, prints, strict=True)
    ]
    if not isinstance(teacher, EnsembleTeacher):
        return found[0]
    ensemble = copy.copy(teacher)
    ensemble.members = list(found)
    return ensemble


def _divided_teacher(network: nn.Module, mesh: Any, shards: Shards) -> nn.Module:
    own = weights_digest(network)
    if first_says(own) != own:
        raise ModelError(
            "fsdp: the teacher has other weights in this process than in the first one; load the same ones in all, from"
            " a file"
        )
    divided = Divided(network, mesh, "teacher")
    shards.note(divided.fill)
    return divided.copy
