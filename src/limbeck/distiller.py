"""The distiller: student, teacher and objective as one module whose forward takes a batch and returns a loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.carry import Carry, state_axis
from limbeck.errors import InputError, ModelError, ModelWarning, NonFiniteAnswerError, warn
from limbeck.methods import kd
from limbeck.networks import check_network, evaluating, frozen_by
from limbeck.objective import Loss, Objective, Setup
from limbeck.outputs import Outputs, last_linear, run_model
from limbeck.profiling import timing
from limbeck.targets.sim import CosineRows, cosines_of
from limbeck.tasks import Need, Task
from limbeck.teacher import ClassVectors, Teacher, asked
from limbeck.teachers import ModelTeacher
from limbeck.teachers.class_vectors import weights_of

__all__ = ["Average", "Distiller", "check_answer", "require_gradient"]

_LOOKED_AT = 8  # samples, and places of each along any axis


def check_answer(name: str, logits: Tensor, classes: int, task: Task) -> None:
    """Require that a model answers for as many classes as the data has."""
    found = task.classes(logits)
    if found != classes:
        raise ModelError(
            f"{name}: answers {found} {task.outputs_are[1]}, the data has {classes}; "
            f"give the {name} {task.outputs(classes)} outputs"
        )


def check_numbers(name: str, answer: Outputs, mask: Tensor | None) -> None:
    """Require an answer without a NaN or +inf where the mask counts; a logit of -inf rules a class out."""
    places = _fails(answer, mask)
    wrong = int(places.flatten(1).any(1).sum()) if places.dim() > 1 else int(places.sum())
    if wrong:
        raise NonFiniteAnswerError(
            f"{name}: answers NaN or +inf for {wrong} of {len(places)} samples of the first batch, before any training;"
            " check its weights, and the scale of its inputs"
        )


def _fails(answer: Outputs, mask: Tensor | None) -> Tensor:
    """Return at which places (...) an answer's logits (..., K) are NaN or +inf and the mask counts: bool."""
    if answer.sparse is not None:
        places = answer.sparse.failed()
    elif answer.head is not None:
        places = answer.head.failed()
    else:
        highest = answer.logits.detach().amax(-1)  # one pass; a NaN is the highest of all
        places = highest.isnan() | highest.isposinf()
    return places & mask if mask is not None and mask.shape == places.shape else places


def warn_of_probabilities(name: str, answer: Outputs) -> None:
    """Warn where a model's first answers are probabilities, which a loss would put through softmax once more."""
    if answer.sparse is not None or answer.head is not None or answer.logits.shape[-1] < 2:
        return
    few = answer.logits.detach()
    for axis in range(few.dim() - 1):  # all logits of a large vocabulary may be gigabytes
        few = few.narrow(axis, 0, min(few.shape[axis], _LOOKED_AT))
    sums = few.float().sum(-1)
    if sums.numel() > 1 and bool((few >= 0).all() & ((sums - 1).abs() < 0.01).all()):  # 0.01: also in bfloat16
        warn(
            f"{name}: each of its first answers is positive and adds up to 1, so that they seem to be probabilities;"
            f" expected logits, since losses take the softmax. Leave out the softmax at the end of the {name}",
            ModelWarning,
        )


def require_gradient(loss: Loss) -> None:
    """Require a loss that the student can learn from."""
    if not loss.total.requires_grad:
        raise ModelError(
            "student: its answer does not depend on any trainable parameter, so that there is no gradient; remove"
            " detach() and torch.no_grad() from its forward"
        )


class Average(Protocol):
    """A moving average of a model's weights, which the training updates after each step and keeps."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The averaged weights and buffers, by the names of the model's own."""


class Distiller(nn.Module):
    """Train a student on an objective, with a teacher beside it.

    The teacher is held without being registered: it is not in `parameters()` nor in `state_dict()`, no wrapper
    broadcasts it, and no optimizer sees it.  For batches of a stream, whose rows continue those of the batch before, it
    carries the recurrent states of student and teacher from step to step, cut off from the graph.

    Args:
        student: the network that learns.
        teacher: a network, or anything else that is a `limbeck.Teacher`.  A network answers in eval mode and without
            gradient; the modes of its modules and its `requires_grad` flags stay as they are.  `ModelTeacher(network)`
            has further choices (another view, a transform) and freezes it.
        objective: what is minimised, from `limbeck.methods`; `kd()` by default.  Without a teacher it may read the
            student alone.
        chunked_head: run networks without their last linear layer, and compute the loss of its logits in chunks, so
            that a step holds no logits.  Both networks end in one linear layer, and all terms that read logits can be
            computed so (`Term.on_logits`).

    Raises:
        InputError: if there is no teacher and the objective reads one, or there is no objective either.
        ModelError: if the student would train weights that the teacher answers with.

    Example:
        >>> import limbeck as lb
        >>> student, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
        >>> distiller = Distiller(student, teacher, lb.methods.kd(temperature=2.0))
        >>> loss = distiller(lb.Batch.of(torch.randn(8, 3), torch.randint(4, (8,))))
        >>> sorted(loss.parts), len(list(distiller.parameters()))
        (['hard', 'soft'], 2)
    """

    @checked
    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | nn.Module | None = None,
        objective: Objective | None = None,
        *,
        chunked_head: bool = False,
    ) -> None:
        super().__init__()
        if teacher is None and objective is None:
            raise InputError(
                "teacher: found None and no objective; give a teacher network, or limbeck.methods.hard() to train"
                " without one"
            )
        objective = kd() if objective is None else objective
        if teacher is None and "teacher" in objective.reads():
            raise InputError("teacher: found None, but the objective reads a teacher; give one")
        if teacher is not None and not isinstance(teacher, Teacher):
            teacher = ModelTeacher(teacher, frozen=False)
        _check_apart(student, teacher)
        self.student = student
        self.objective = objective
        self.chunked_head = chunked_head
        self._last = dict[str, str]()
        self._teacher: tuple[Teacher | None] = (teacher,)
        self._cosines: Tensor | CosineRows | None = None
        self.teacher_failed: Tensor | None = None
        self.step: int | None = None
        self.carry = Carry()

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, which is no submodule."""
        return self._teacher[0]

    @contextmanager
    def asking(self, teacher: Teacher) -> Iterator[None]:
        """Ask another teacher instead inside the scope; one that gives the same answers, with the same fingerprint."""
        before, self._teacher = self._teacher, (teacher,)
        try:
            yield
        finally:
            self._teacher = before

    @contextmanager
    def in_chunks(self, wanted: bool = True) -> Iterator[None]:
        """Take `chunked_head` as true inside the scope, if `wanted`; otherwise leave it as it is."""
        before, self.chunked_head = self.chunked_head, self.chunked_head or wanted
        try:
            yield
        finally:
            self.chunked_head = before

    def prepare(self, device: torch.device | str) -> "Distiller":
        """Place student, terms and teacher on a device."""
        check_network("student", self.student)
        self.to(device)
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        """Move student and terms as any module, and the teacher to where the student then is."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        place = next((tensor.device for tensor in (*self.student.parameters(), *self.student.buffers())), None)
        if self.teacher is not None and place is not None:
            self.teacher.to(place)
        return self

    def build(
        self,
        batch: Batch,
        *,
        classes: int | None = None,
        legend: Legend | None = None,
        seed: int = 0,
        samples: tuple[Tensor, Tensor | None] | None = None,
        batches: Callable[[], Iterable[Batch]] | None = None,
    ) -> dict[str, Outputs]:
        """Let the terms create what depends on models and data, from a first batch, before an optimizer is made.

        classes: how many the data has; ModelError when a model answers another number.  legend: what the data's labels
        mean, for the terms that ask.  seed: of what is drawn.  samples: index and labels of the training samples;
        batches: makes an iterator over them.  Both are the batch by default.  Returns the outputs.
        """
        if legend is not None:
            self.objective.settle(legend)
        check_network("student", self.student)
        self._check_differentiable()
        self.locate()
        with evaluating(self.student), self._carrying_apart(), torch.no_grad():
            outputs = self._outputs(batch, self.objective.reads())
            for name, answer in outputs.items():
                if classes is not None and self.objective.shares_classes(name):
                    check_answer(name, answer.logits, classes, batch.task)
                check_numbers(name, answer, batch.mask)
                if Need.SEVERAL_CLASSES in batch.task.meets:
                    warn_of_probabilities(
                        "model" if name == "student" else name, answer
                    )  # a teacher's own training too
            index, labels = samples or (batch.index, batch.labels)
            self.objective.build(outputs, Setup(index, labels, seed, lambda: self._passes(batches, batch)))
            if self.chunked_head:
                self.objective.require_parts(outputs, batch)
        return outputs

    def locate(self) -> None:
        """Let the terms that find their layers in the networks do so, as `build` does first of all."""
        if self.objective.finds_layers:
            networks = {"student": self.student}
            if isinstance(self.teacher, ModelTeacher):
                networks["teacher"] = self.teacher.model
            self.objective.locate(networks)

    @torch.no_grad()
    def _passes(self, batches: Callable[[], Iterable[Batch]] | None, first: Batch) -> Iterator[dict[str, Outputs]]:
        """Run the models that the objective reads over the training samples once, in eval mode."""
        with evaluating(self.student), self._carrying_apart():
            for batch in [first] if batches is None else batches():
                yield self._outputs(batch.to(first.index.device), self.objective.reads())

    @contextmanager
    def _carrying_apart(self) -> Iterator[None]:
        """Carry recurrent states of another pass inside the scope, and leave the training's as they are."""
        own, self.carry = self.carry, Carry()
        try:
            yield
        finally:
            self.carry = own

    def _check_differentiable(self) -> None:
        """Require models that can be differentiated as the terms need it."""
        if self.objective.differentiates_twice and any(hasattr(each, "_orig_mod") for each in self.student.modules()):
            raise ModelError(
                "student: a term differentiates its gradient, which torch.compile cannot; train it uncompiled"
            )
        if self.objective.needs_network and not isinstance(self.teacher, ModelTeacher):
            raise InputError(
                "teacher: a term needs a network, for its gradients, weights or layers; found a"
                f" {type(self.teacher).__name__}, which gives answers alone. Give a network, and ask it for every batch"
                " (store: false)"
            )

    def follow(self, average: Average | None) -> None:
        """Hear, before the first step, of the moving average of the student's weights; None where there is none."""

    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return what to note of an epoch beside the student's metrics, from the batches of the validation set."""
        return {}

    def observe(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Hear of the epochs so far, as the loop's history has them: before the first step, and at each epoch's end.

        What a distiller makes of them must be a function of the history alone, since that is what a resumed training
        finds again.
        """

    def outputs(self, batch: Batch, step: int | None) -> dict[str, Outputs]:
        """Run the models that the objective reads at `step`."""
        return self._outputs(batch, self.objective.reads_at(step))

    def forward(self, batch: Batch, step: int | None = None, counts: Mapping[str, Tensor | int] | None = None) -> Loss:
        """Return the loss of a batch.

        step: optimizer steps done, which schedules read; by default `self.step`, which a loop of your own may set.
            Without schedules none is needed; with one and no step it raises InputError.
        counts: see `Objective.forward`.
        """
        if not isinstance(batch, Batch):
            raise InputError(f"batch: found a {type(batch).__name__}, expected limbeck.Batch.of(inputs, labels)")
        step = self.step if step is None else step
        if step is not None and self.student.training:
            for hook in getattr(self.student, "before_step", ()):  # masks that are drawn anew along a ramp, say
                hook(self.student, step)
        loss: Loss = self.objective(self.outputs(batch, step), batch, step, counts)
        return loss

    def _outputs(self, batch: Batch, models: frozenset[str]) -> dict[str, Outputs]:
        with timing("student"):
            outputs = {"student": self._ask_student(batch)}
        if "teacher" in models:
            if self.teacher is None:
                raise InputError("teacher: found None, but the objective reads a teacher; give one")
            taps = self.objective.taps("teacher")
            with timing("teacher"), self._teacher_without_product(batch):
                answer = asked(self.teacher, batch, taps, self.carry)
            failed = _fails(answer, batch.mask).any()  # on its device: read when a loss was not finite, and only then
            self.teacher_failed = failed if self.teacher_failed is None else self.teacher_failed | failed
            if self.objective.reads_class_cosines:
                answer = replace(answer, class_cosines=self._class_cosines(self.teacher, answer.logits))
            if self.objective.needs_network and isinstance(self.teacher, ModelTeacher):
                answer = self._with_network(self.teacher, answer, batch)
            outputs["teacher"] = answer
        if batch.padding is not None:
            outputs = {name: replace(answer, padding=batch.padding) for name, answer in outputs.items()}
        return outputs

    def _teacher_without_product(self, batch: Batch) -> AbstractContextManager[None]:
        """Return a scope in which a teacher that is a network answers with its head, where that is asked for."""
        teacher = getattr(self.teacher, "teacher", self.teacher)  # one that several students share holds it
        if not self.chunked_head or not isinstance(teacher, ModelTeacher):
            return nullcontext()
        if "teacher" not in self._last:
            self._last["teacher"] = teacher.last_layer(batch)
        return teacher.without(self._last["teacher"])

    def last_layer(self, batch: Batch) -> str | None:
        """Return the path of the student's last layer where it is not to be computed."""
        if not self.chunked_head:
            return None
        if "student" not in self._last:
            with evaluating(self.student):
                self._last["student"] = last_linear(self.student, batch.inputs, task=batch.task, role="student")
        return self._last["student"]

    def _with_network(self, teacher: ModelTeacher, answer: Outputs, batch: Batch) -> Outputs:
        """Return a teacher's answer with what only a network has."""
        paths = self.objective.reads_weights("teacher")
        weights = teacher.weights(paths, answer.logits.shape[-1]) if paths else {}

        def ask(inputs: Any) -> Outputs:
            views = {} if teacher.view is None else {teacher.view: inputs}
            other = replace(batch, inputs=inputs, views=views, augmented=False, mix=None)
            return replace(teacher(other, self.objective.taps("teacher")), vjp=partial(teacher.vjp, other))

        return replace(answer, weights=weights, ask=ask, vjp=partial(teacher.vjp, batch))

    def _ask_student(self, batch: Batch) -> Outputs:
        inputs, taps, paths = batch.inputs, self.objective.taps("student"), self.objective.reads_weights("student")
        if self.objective.differentiates_inputs and torch.is_grad_enabled():
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError(
                    "student: a term differentiates it by its inputs, expected one tensor of floating-point numbers;"
                    " token ids and mappings have no gradient, so use another method"
                )
            inputs = inputs.detach().requires_grad_()

        def ask(other: Any) -> Outputs:
            return run_model(self.student, other, taps, task=batch.task, role="student")

        axis = state_axis(self.student)
        state = self.carry.state("student", batch, axis)
        last = self.last_layer(batch)
        answer = run_model(self.student, inputs, taps, task=batch.task, role="student", state=state, last=last)
        self.carry.keep("student", batch, answer.state, axis)
        if self.objective.differentiates_inputs:
            answer = replace(answer, inputs=inputs)
        if paths:
            answer = replace(answer, weights=weights_of(self.student, paths, answer.logits.shape[-1], role="student"))
        return replace(answer, ask=ask)

    def _class_cosines(self, teacher: Teacher, logits: Tensor) -> Tensor | CosineRows:
        """Return the similarity of the teacher's classes, read from it once, where its logits are."""
        if self._cosines is None:
            if not isinstance(teacher, ClassVectors):
                raise ModelError(
                    f"teacher: a term reads the vectors of the classes in its last linear layer, and this one "
                    f"({type(teacher).__name__}) has none; use a network as the teacher, or use another target"
                )
            self._cosines = cosines_of(teacher.class_vectors(logits.shape[-1]))
        self._cosines = self._cosines.to(logits.device)
        return self._cosines


def _check_apart(student: nn.Module, teacher: Teacher | None) -> None:
    """Refuse a student with parameters that its teacher froze because they are the teacher's too, or would move."""
    frozen = {id(weights) for weights in frozen_by(teacher)}
    lent = teacher.model.parameters() if isinstance(teacher, ModelTeacher) and not teacher.frozen else ()
    moving = {id(weights) for weights in lent if weights.requires_grad}
    for name, weights in student.named_parameters():
        if id(weights) in frozen and not weights.requires_grad:
            raise ModelError(
                f"student: its parameter '{name}' is the teacher's too, and was frozen with it; give the student"
                " its own modules (copy.deepcopy), or freeze the part before making the teacher if it is to stay"
            )
        if id(weights) in moving:
            raise ModelError(
                f"student: its parameter '{name}' is the teacher's too, and would change the teacher as it learns; give"
                " the student its own modules (copy.deepcopy)"
            )
