"""Every public name, asked with objects of a wrong kind at each of its arguments, succeeds or raises one line."""

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import LimbeckError

ROOMS = (
    "compress",
    "data",
    "evaluation",
    "generation",
    "losses",
    "methods",
    "models",
    "schedules",
    "targets",
    "tasks",
    "teachers",
    "terms",
    "tokenizers",
)
LEFT_OUT = {
    # what fetches from the network, makes processes of its own, or is no function of a user's objects
    "data.mnist", "data.fashion_mnist", "data.cifar10", "data.cifar100", "training.fit_apart", "errors",
}  # fmt: skip

DATA = lb.data.TensorSet.of(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)
IMAGES = lb.data.TensorSet.of(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)


def generator() -> Iterator[int]:
    yield 1


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a string": lambda: "nonsense",
    "an int": lambda: 7,
    "a list of strings": lambda: ["a", "b"],
    "a dict": lambda: {"a": 1},
    "a module": lambda: nn.Linear(3, 4),
    "an object array": lambda: np.array([object(), None]),
    "a function": lambda: lambda *_args, **_kwargs: "nothing",
    "a generator": generator,
    "a tensor of another type": lambda: torch.tensor([[True], [False]]),
    "a tensor of another shape": lambda: torch.zeros(2, 3, 5, dtype=torch.float64),
    "an array of text": lambda: np.array(["a", "b"]),
}


def public() -> dict[str, Any]:
    """Return all public functions and classes by their names."""
    found = {name: getattr(lb, name) for name in lb.__all__}
    for room in (*ROOMS, "training"):
        module = getattr(lb, room)
        found |= {f"{room}.{name}": getattr(module, name) for name in module.__all__}
    found |= {f"methods.{name}": lb.methods.builder(name) for name in lb.methods.names()}
    found |= {f"models.{name}": lb.models.builder(name) for name in lb.models.names()}
    found |= {"TensorSet.of": lb.data.TensorSet.of, "LazySet.of": lb.data.LazySet.of, "Batch.of": lb.Batch.of}
    found |= {f"subset of data.{name}": getattr(DATA, name) for name in (
        "subset", "fraction", "split", "without_classes", "only_classes", "relabelled", "class_numbers")}  # fmt: skip
    found |= {f"ArrayTeacher.{name}": getattr(lb.ArrayTeacher, name) for name in (
        "of_labels", "of_probabilities", "of_top_k", "read")}  # fmt: skip
    once = {id(each): name for name, each in reversed(found.items())}  # under the first of its names
    found = {name: each for name, each in found.items() if inspect.ismethod(each) or once[id(each)] == name}
    return {name: each for name, each in found.items() if callable(each) and name not in LEFT_OUT and not _is_odd(each)}


def _is_odd(each: Any) -> bool:
    if not inspect.isclass(each):
        return not inspect.isroutine(each)
    no_call = issubclass(each, Exception | Enum)  # the members of an enum are named, not made
    return no_call or inspect.isabstract(each) or getattr(each, "_is_protocol", False)


def network() -> nn.Module:
    return nn.Linear(3, 4)


def teacher() -> lb.ModelTeacher:
    return lb.ModelTeacher(network())


LOGITS = torch.tensor([[0.5, 0.1, -0.3, 0.2], [0.0, 1.0, 0.3, 0.4]])
LABELS = torch.tensor([0, 3])
BATCH = lb.Batch.of(torch.randn(2, 3), LABELS)
TARGET = lb.losses.soften(LOGITS)

BY_NAME: dict[str, Callable[[], Any]] = {
    "student_logits": lambda: LOGITS, "teacher_logits": lambda: LOGITS, "logits": lambda: LOGITS,
    "first": lambda: LABELS, "second": lambda: LABELS, "predictions": lambda: LABELS, "labels": lambda: LABELS,
    "like": lambda: LOGITS, "vectors": lambda: LOGITS, "values": lambda: LOGITS[0], "confidence": lambda: LOGITS[0],
    "correct": lambda: LABELS > 0, "confusion": lambda: torch.eye(4, dtype=torch.int64),
    "cosines": lambda: torch.eye(4),
    "inputs": lambda: torch.randn(2, 3), "positions": lambda: LABELS, "index": lambda: torch.arange(2),
    "mask": lambda: LABELS > 0, "per_example": lambda: LOGITS[0, :2], "ids": lambda: torch.arange(8)[:, None] % 4,
    "probabilities": lambda: torch.full((8, 1), 0.5), "input_shape": lambda: (3, 8, 8), "classes": lambda: 4,
    "epsilon": lambda: 0.1, "epsilons": lambda: [0.1], "threshold": lambda: 0.5, "share": lambda: 0.5,
    "share_or_count": lambda: 0.5, "temperature": lambda: 2.0, "max_norm": lambda: 1.0, "decay": lambda: 0.9,
    "model": network, "student": network, "members": lambda: [teacher()], "teacher": teacher, "taps": dict,
    "samples": lambda: DATA, "train_set": lambda: DATA, "train": lambda: DATA, "test": lambda: DATA,
    "inner": lambda: DATA, "validation": lambda: None, "training": lambda: lb.Training(epochs=1, batch_size=4),
    "objective": lb.methods.hard, "terms": lambda: [lb.terms.HardLabels()],
    "distiller": lambda: lb.Distiller(network(), teacher(), lb.methods.kd()),
    "distillers": lambda: [lb.Distiller(network(), teacher(), lb.methods.kd())],
    "stages": lambda: [lb.Stage("all", lb.methods.hard(), lb.Training(epochs=1, batch_size=4))],
    "outputs": lambda: lb.Outputs(LOGITS), "target": lambda: TARGET, "targets": lambda: [TARGET, TARGET],
    "batch": lambda: BATCH, "name": lambda: "hard", "kind": lambda: "kl", "boundaries": lambda: [1],
    "schedule": lambda: 1.0, "step": lambda: 1, "steps": lambda: 4, "start": lambda: 1.0, "end": lambda: 0.0,
    "value": lambda: 1.0, "source": lambda: "somewhere", "flops": lambda: [10], "successes": lambda: 1,
    "trials": lambda: 2, "total": lambda: 4, "k": lambda: 2, "points": lambda: [lb.evaluation.Point("a", 1.0, 0.5)],
    "groups": lambda: [0, 0, 1, 1], "task": lambda: lb.tasks.CLASSIFICATION, "trained": lambda: [5, 4, 3, 2],
    "student_answers": lambda: LOGITS, "teacher_answers": lambda: LOGITS, "bias": lambda: 0.5, "seed": lambda: 0,
    "parts": lambda: (lb.targets.PLAIN, lb.targets.PLAIN), "scores": lambda: lb.evaluation.score(LOGITS, LABELS),
    "batch_size": lambda: 4, "reduction": lambda: "mean", "what": lambda: "term 'x' compares", "path": lambda: "no.npz",
    "folder": lambda: "no folder", "size": lambda: (8, 8), "label": lambda: "y", "matrix": lambda: torch.rand(5, 4),
    "moment": lambda: torch.eye(4), "owner": lambda: "0", "others": lambda: ("1",),
    "rank": lambda: 2, "shares": lambda: torch.ones(5), "rows": lambda: LOGITS,
    "columns": lambda: 3, "energy": lambda: 0.9, "records": list, "batches": lambda: [BATCH], "changed": dict,
    "kept": dict,
}  # fmt: skip
BY_CALL: dict[tuple[str, str], Callable[[], Any]] = {
    ("evaluation.early_exit", "logits"): lambda: [LOGITS, LOGITS],
    ("evaluation.early_exit_curve", "logits"): lambda: [LOGITS],
    ("teachers.MeanOfModels", "members"): lambda: [network()],
    ("evaluation.t_interval", "values"): lambda: [0.5, 0.6],
    ("schedules.piecewise", "values"): lambda: [1.0, 0.1],
    ("evaluation.gap_closed", "teacher"): lambda: 0.9,
    ("evaluation.no_gap", "teacher"): lambda: 0.9,
    ("evaluation.gap_closed", "alone"): lambda: [0.5, 0.6],
    ("evaluation.gap_closed", "distilled"): lambda: [0.6, 0.7],
    ("evaluation.no_gap", "alone"): lambda: 0.5,
    ("evaluation.no_gap", "distilled"): lambda: 0.7,
    ("evaluation.class_gains", "classes"): lambda: 4,
    ("targets.label_positions", "classes"): lambda: [0, 3],
    ("targets.restrict", "classes"): lambda: [0, 3],
    ("targets.Restricted", "classes"): lambda: (0, 3),
    ("methods.class_subset", "classes"): lambda: (0, 3),
    ("teachers.RestrictedModel", "classes"): lambda: [0, 3],
    ("evaluation.fit_bias", "classes"): lambda: [0, 3],
    ("evaluation.with_bias", "classes"): lambda: [0, 3],
    ("data.half_and_half", "classes"): lambda: [0, 1],
    ("data.with_dustbin", "classes"): lambda: [0, 1],
    ("ArrayTeacher.of_labels", "labels"): lambda: DATA.labels,
    ("ArrayTeacher.of_probabilities", "probabilities"): lambda: torch.full((8, 4), 0.25),
    ("data.bundled", "name"): lambda: "iris",
    ("methods.builder", "name"): lambda: "kd",
    ("compress.builder", "name"): lambda: "low_rank",
    ("compress.card", "name"): lambda: "low_rank",
    ("compress.rank_bound", "rows"): lambda: 5,
    ("methods.card", "name"): lambda: "kd",
    ("models.builder", "name"): lambda: "mlp",
    ("tasks.task_named", "name"): lambda: "classification",
    ("targets.target", "kind"): lambda: "softmax",
    ("targets.card", "kind"): lambda: "softmax",
    ("TensorSet.of", "labels"): lambda: LABELS,
    ("TensorSet.of", "classes"): lambda: 4,
    ("LazySet.of", "samples"): lambda: [(torch.zeros(3), 0)] * 3,
}
for call in ("relabelled", "class_numbers", "without_classes", "only_classes"):
    BY_CALL[f"subset of data.{call}", "classes"] = lambda: [0, 1]
BY_ANNOTATION: dict[Any, Any] = {float: 0.5, int: 1, str: "text", bool: True}


def valid(name: str, parameter: inspect.Parameter) -> Any:
    """Return a value that an argument takes; of a mere holder of results, one of the right kind at most."""
    if (name, parameter.name) in BY_CALL:
        return BY_CALL[name, parameter.name]()
    if parameter.name in BY_NAME:
        return BY_NAME[parameter.name]()
    return BY_ANNOTATION.get(parameter.annotation)


OWN = {("watch", "a module")}  # what is called is the user's own, and so is the error that it raises
SLOW = {"data.synthetic": pytest.mark.slow, "data.bundled": pytest.mark.slow}
NAMES = public()
TRIED: list[tuple[str, str, str]] = []


def required(each: Any) -> list[inspect.Parameter]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [each for each in inspect.signature(each).parameters.values() if each.kind not in several]
    return [each for each in parameters if each.default is inspect.Parameter.empty]


def call(name: str, wrong: inspect.Parameter | None, value: Any) -> Any:
    each = NAMES[name]
    given = {part.name: valid(name, part) for part in required(each)}
    if "training" in inspect.signature(each).parameters:
        given["training"] = lb.Training(epochs=1, batch_size=4)
    if wrong is not None:
        given[wrong.name] = value
    return each(**given)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(each, marks=SLOW.get(each, ())) for each in NAMES])
def test_a_wrong_object_at_any_argument_is_one_line_or_taken(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text may be taken for a path
    (tmp_path / "ptb").mkdir()  # read once for each argument of ptb
    for part in ("train", "valid", "test"):
        (tmp_path / "ptb" / f"ptb.{part}.txt").write_text(" the cat sat \n" * 200)
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    escaped = []
    for parameter in inspect.signature(NAMES[name]).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        for kind, make in WRONG.items():
            if (parameter.name, kind) in OWN:
                continue
            TRIED.append((name, parameter.name, kind))
            try:
                call(name, parameter, make())
            except LimbeckError as error:
                escaped += ["a line break"] if "\n" in str(error) else []
            except Exception as error:  # noqa: BLE001 - it is what this test looks for
                escaped.append(f"{parameter.name} = {kind}: {type(error).__name__}: {str(error)[:80]}")
    assert not escaped, f"{len(escaped)}: " + "; ".join(escaped)
