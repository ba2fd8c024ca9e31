"""What a model gives: logits, named features, exits and state; and `capture`, which reads any module by its path."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError, LimbeckError, ModelError, lacks_memory, one_line, one_of
from limbeck.head import Head, head_behind, head_of, without_product
from limbeck.networks import canonical_path
from limbeck.ranks import all_there
from limbeck.sparse import Answer
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["Members", "Outputs", "Tap", "canonical_path", "capture", "last_linear", "run_model", "tapped"]


@dataclass(frozen=True)
class Members:
    """What each member of an ensemble said.

    logits: (M, N, K) or (M, N, L, V).  weights: M numbers that add up to 1.
    mean: of the members' distributions at the temperature that is asked for, not of their logits.
    """

    logits: Tensor
    weights: tuple[float, ...]
    mean: Literal["arithmetic", "geometric"] = "arithmetic"


@checked_fields
@dataclass
class Outputs:
    """What a model answers for a batch.

    Attributes:
        logits: (N, K), or (N, L, V) for sequences; the class axis is last.  For an ensemble, the logarithm of its mean
            at temperature 1; `targets.softened` reads `members` at other temperatures.
        features: tensors by the name that they were tapped under.
        heads: logits of further exits by name.
        state: recurrent hidden state, which the caller passes from batch to batch.
        members: the members' answers of an ensemble, otherwise None.
        class_cosines: (K, K), similarity of the classes in the model's last layer, if the objective asks for it; for
            more classes than a square is made of, an object with `rows(classes)`, (n,) to (n, K).
        inputs: (N, ...), what the model was called with, if the objective differentiates by it; it then requires a
            gradient.
        weights: parameters of the model by the name that a term gives them, if the objective reads any.
        ask: calls the model again on other inputs, if it can answer any.
        vjp: the teacher's vector-Jacobian product (`ModelTeacher.vjp`) for this batch, if it has one.
        padding: (N, L) bool, which places of a distiller's batch are real; None where all are (`Batch.padding`).
        sparse: of stored answers that are cut to few classes, these; `logits` is then NaN throughout, and only terms
            with `takes_sparse` may read the answer.
        head: of a model that ran without its last linear layer, what that layer would multiply; `logits` is then NaN
            throughout, without memory, and only terms with `on_logits` may read the answer.

    Example:
        >>> Outputs(torch.zeros(2, 3)).logits.shape
        torch.Size([2, 3])
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None
    members: Members | None = None
    class_cosines: Any = None
    inputs: Tensor | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    ask: Callable[[Any], "Outputs"] | None = None
    vjp: Callable[..., Tensor] | None = None
    padding: Tensor | None = None
    sparse: Answer | None = None
    head: Head | None = None

    @classmethod
    def cut(cls, answer: Answer) -> "Outputs":
        """Return an answer that is cut to few classes, beside NaN for logits, which take no memory."""
        logits = torch.full((), torch.nan, device=answer.ids.device)
        return cls(logits.expand(answer.shape), sparse=answer)

    def transformed(self, transform: Callable[[Tensor], Tensor]) -> "Outputs":
        """Return the same outputs with transformed logits, each member's of an ensemble too."""
        members = self.members
        members = None if members is None else replace(members, logits=transform(members.logits))
        return replace(self, logits=transform(self.logits), members=members)

    def detach(self) -> "Outputs":
        """Return the same values cut off from the graph (state as it is)."""
        return replace(
            self,
            logits=self.logits.detach(),
            features={name: value.detach() for name, value in self.features.items()},
            heads={name: value.detach() for name, value in self.heads.items()},
            members=None if self.members is None else replace(self.members, logits=self.members.logits.detach()),
            head=None if self.head is None else self.head.detach(),
        )


@checked_fields
@dataclass(frozen=True)
class Tap:
    """Where to read a feature.

    Attributes:
        path: of a module, such as "layer2.0".
        function: a function of what is read, for features that no module outputs; None for the value itself.
        side: the module's "output", its "input", or the "preactivation", the input of its last ReLU, where the network
            declares it (a class attribute `preactivations`, {path: place}).

    Raises:
        InputError: if the side is another.

    Example:
        >>> Tap("layer2", side="input").side
        'input'
    """

    path: str
    function: Callable[[Any], Tensor] | None = None
    side: Literal["output", "input", "preactivation"] = "output"

    def __post_init__(self) -> None:
        if self.side not in ("output", "input", "preactivation"):
            raise InputError(
                f"side of tap '{self.path}': found {self.side!r}, expected one of: input, output, preactivation"
            )


class _Features(dict[str, Tensor]):
    """Features by name, and what torch counted as the changes in place of each when it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, int] = {}


@contextmanager
@checked
def capture(model: nn.Module, taps: Mapping[str, str | Tap]) -> Iterator[_Features]:
    """Read named features of a model while the scope is open.

    Args:
        model: the network.
        taps: {name: path of a module, or a `Tap`}.

    Returns:
        A context manager that yields a dict {name: tensor}.  Each forward pass fills it; if a module is called several
        times, the last call counts.

    Raises:
        ModelError: if a path names no module (the message names the nearest one), or a module returns no tensor.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> with capture(model, {"hidden": "1"}) as features:
        ...     _ = model(torch.zeros(4, 3))
        >>> features["hidden"].shape
        torch.Size([4, 5])
    """
    features = _Features()
    if not taps:
        yield features
        return
    handles = []
    try:
        for name, tap, module in tapped(model, taps):
            handles.append(module.register_forward_hook(_reader(name, tap, features)))
        yield features
    finally:
        for handle in handles:
            handle.remove()


def tapped(model: nn.Module, taps: Mapping[str, str | Tap]) -> Iterator[tuple[str, Tap, nn.Module]]:
    """Yield each feature's name, its tap, on an output or input, and the module of the model that is tapped.

    Raises ModelError where a path names no module.
    """
    modules: dict[str, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(canonical_path(path), []).append((path, module))
    for name, tap in taps.items():
        placed = _located(modules, name, Tap(tap) if isinstance(tap, str) else tap)
        yield name, placed, _find(modules, name, placed.path)


def _located(modules: Mapping[str, list[tuple[str, nn.Module]]], name: str, tap: Tap) -> Tap:
    """Return a tap on an output or input, in place of one on a pre-activation."""
    if tap.side != "preactivation":
        return tap
    parts = _path(modules, name, tap.path).split(".")
    for start in range(len(parts)):
        outer, inner = ".".join(parts[:start]), ".".join(parts[start:])
        for _, module in modules.get(outer, []):
            declared = getattr(module, "preactivations", None)
            if isinstance(declared, Mapping) and inner in declared:
                path, _, side = f"{outer}.{declared[inner]}".removeprefix(".").partition("@")
                return replace(tap, path=path, side="input" if side == "input" else "output")
    known = sorted(
        {key for every in modules.values() for _, each in every for key in getattr(each, "preactivations", ())}
    )
    which = one_of(tap.path, known) if known else "it declares none"
    raise ModelError(
        f"feature '{name}': the model does not say where the pre-activation of '{tap.path}' is; {which}. Name the place"
        f" itself, such as {tap.path}.relu@input, the normalisation before the ReLU, or {tap.path}@output for what it"
        " gives"
    )


def _path(modules: Mapping[str, list[tuple[str, nn.Module]]], name: str, path: str) -> str:
    """Return a canonical path whose parts -1, -2, ... are replaced by the names of the children that they count."""
    parts: list[str] = []
    for part in canonical_path(path).split("."):
        outer = ".".join(parts)
        if re.fullmatch(r"-[1-9]\d*", part) and outer in modules:
            children = [canonical_path(child) for child, _ in modules[outer][-1][1].named_children()]
            if int(part) < -len(children):
                raise ModelError(
                    f"feature '{name}': '{outer}' has {len(children)} children, found '{part}' in '{path}'"
                )
            part = children[int(part)]
        parts.append(part)
    return ".".join(parts)


def _find(modules: Mapping[str, list[tuple[str, nn.Module]]], name: str, path: str) -> nn.Module:
    found = modules.get(_path(modules, name, path), [])
    if not found:
        raise ModelError(f"feature '{name}': the model has no module '{path}'; {one_of(path, filter(None, modules))}")
    outer, module = found[0]  # a wrapper comes before what it wraps
    for other, _ in found[1:]:
        if outer and not other.startswith(f"{outer}."):
            raise ModelError(f"feature '{name}': '{path}' may be '{outer}' or '{other}'; rename one of these modules")
    return module


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - it has no public name


def _reader(name: str, tap: Tap, features: _Features) -> Callable[..., None]:
    def read(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if tap.side == "input" and not inputs:
            raise ModelError(
                f"feature '{name}': module '{tap.path}' was called with keywords only, so it has no first input; "
                "tap the output of the module before it"
            )
        value = inputs[0] if tap.side == "input" else output
        if tap.function is not None:
            value = tap.function(value)
        elif isinstance(value, tuple) and value:
            value = value[0]
        if not isinstance(value, Tensor):
            raise ModelError(
                f"feature '{name}': module '{tap.path}' gives {type(value).__name__}, expected a tensor; "
                "add a function to the tap that returns one"
            )
        features[name] = value
        features.versions[name] = _version(value)

    return read


def run_model(
    model: nn.Module,
    inputs: Any,
    taps: Mapping[str, str | Tap] | None = None,
    *,
    task: Task = CLASSIFICATION,
    role: str = "model",
    state: Any = None,
    last: str | None = None,
) -> Outputs:
    """Call `model` on `inputs` and return `Outputs`, whatever common form the model answers in.

    The model may return logits, `Outputs`, an object or mapping with `logits`, or a tuple (logits, state).  It is asked
    in its own type: floating-point inputs become what its parameters are (float64, bfloat16).
    task: how its logits, and those of its exits, are read: their class axis is last afterwards.  role: its name in
    error lines.  state: recurrent state to continue with, the model's second argument (`state=` where it takes
    keywords); None to begin anew, without that argument.  last: path of the last linear layer (`last_linear`), which is
    then not computed: the answer has a `head`, and placeholders for logits.
    Raises ModelError where the model raises, or answers with anything else.
    """
    if last is not None:
        with without_product(model.get_submodule(last)):
            answer = run_model(model, inputs, taps, task=task, role=role, state=state)
        return _with_head(answer, last, role)
    if not taps:
        return _read(_as_outputs(model, _call(model, inputs, role, state), {}, role), task)
    with capture(model, taps) as features:
        answer = _call(model, inputs, role, state)
    for name, tap in taps.items():
        if name not in features:
            path = tap if isinstance(tap, str) else tap.path
            raise ModelError(f"feature '{name}': module '{path}' was not called in the forward pass; name another")
        if _version(features[name]) != features.versions[name]:
            path = tap if isinstance(tap, str) else tap.path
            raise ModelError(
                f"feature '{name}': a later module changed the output of '{path}' in place (a ReLU with inplace=True,"
                " say); set inplace=False there, or read a copy: Tap(path, torch.clone)"
            )
    return _read(_as_outputs(model, answer, features, role), task)


def _with_head(answer: Outputs, last: str, role: str) -> Outputs:
    """Return an answer with the head of its placeholder; ModelError where it is none, or a feature is one."""
    for name, value in answer.features.items():
        if head_behind(value) is not None:
            raise ModelError(
                f"chunked_head: found feature '{name}' of the {role}, which is what its last layer '{last}' gives;"
                " expected features of other layers. Leave chunked_head out, or tap another layer"
            )
    head = head_behind(answer.logits)
    if head is None:
        raise _not_linear(role, f"something that follows '{last}'")
    return replace(answer, head=head)


def _not_linear(role: str, found: str) -> ModelError:
    return ModelError(
        f"chunked_head: found {found} as the last step of the {role}; expected one linear layer, whose product is the"
        " answer as it is. Leave chunked_head out"
    )


def last_linear(model: nn.Module, inputs: Any, *, task: Task = CLASSIFICATION, role: str = "model") -> str:
    """Return the path of the linear layer whose output is the model's answer, found by calling it on a few samples.

    Raises ModelError where the last step is anything else.

    >>> last_linear(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(2, 3))
    '2'
    """
    few = {name: _few(value) for name, value in inputs.items()} if isinstance(inputs, Mapping) else _few(inputs)
    made: list[tuple[str, Any]] = []
    linear = {path: each for path, each in model.named_modules() if head_of(each) is not None}
    handles = [
        each.register_forward_hook(lambda _, __, output, path=path: made.append((path, output)))
        for path, each in linear.items()
    ]
    try:
        with torch.no_grad():
            answer = run_model(model, few, task=task, role=role).logits
    finally:
        for handle in handles:
            handle.remove()
    found: str | None = next((path for path, output in reversed(made) if output is answer), None)
    if found is None:  # a library's model may still change the type of its logits
        asked = (getattr(each, "get_output_embeddings", None) for each in model.modules())
        named = [layer for layer in (each() for each in asked if callable(each)) if layer is not None]
        found = next((path for path, each in linear.items() if any(each is layer for layer in named)), None)
    if found is None:
        raise _not_linear(role, "no linear layer" if not made else f"something that follows '{made[-1][0]}'")
    return found


def _few(value: Any) -> Any:
    return value[:2] if isinstance(value, Tensor) and value.dim() else value


def _read(outputs: Outputs, task: Task) -> Outputs:
    heads = {name: task.logits(logits) for name, logits in outputs.heads.items()}
    return replace(outputs, logits=task.logits(outputs.logits), heads=heads)


def _call(model: nn.Module, inputs: Any, role: str, state: Any = None) -> Any:
    handed = [each for each in _parts(inputs) if isinstance(each, Tensor)]
    versions = [_version(each) for each in handed]
    inputs = _in_own_type(model, inputs)
    try:
        with all_there():  # a network that is divided among processes meets them in its forward
            if isinstance(inputs, Mapping):
                answer = model(**inputs) if state is None else model(**inputs, state=state)
            else:
                answer = model(inputs) if state is None else model(inputs, state)
    except LimbeckError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            f"{role}: its forward raised {type(error).__name__}: {one_line(error)}; its input was {_described(inputs)}"
        ) from error
    if [_version(each) for each in handed] != versions:
        raise ModelError(
            f"{role}: its forward changes its inputs in place, so that what reads the batch next sees other inputs;"
            " write x = x * 2 and not x *= 2, and set inplace=False where a ReLU is first"
        )
    return answer


_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _in_own_type(model: nn.Module, inputs: Any) -> Any:
    """Return inputs whose floating-point tensors have the type of the model's parameters, where these have one type."""
    own = next((weights.dtype for weights in model.parameters() if weights.dtype in _TYPES), None)
    if own is None or not any(_is_of_another_type(each, own) for each in _parts(inputs)):
        return inputs
    if any(weights.dtype != own for weights in model.parameters() if weights.dtype in _TYPES):
        return inputs
    if isinstance(inputs, Mapping):
        return {name: each.to(own) if _is_of_another_type(each, own) else each for name, each in inputs.items()}
    return inputs.to(own)


def _parts(inputs: Any) -> list[Any]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def _is_of_another_type(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype != dtype and value.dtype in _TYPES


def _described(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return "with " + ", ".join(f"{name} {_described(each)}" for name, each in inputs.items())
    if isinstance(inputs, Tensor):
        return f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}"
    return f"with {type(inputs).__name__}"


def _as_outputs(model: nn.Module, answer: Any, features: dict[str, Tensor], role: str) -> Outputs:
    if isinstance(answer, Outputs):
        found = replace(answer, features={**answer.features, **features})
    elif isinstance(answer, Tensor):
        found = Outputs(answer, features)
    else:
        logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
        if isinstance(logits, Tensor):
            found = Outputs(logits, features)
        elif isinstance(answer, tuple) and answer and isinstance(answer[0], Tensor):
            found = Outputs(answer[0], features, state=answer[1] if len(answer) > 1 else None)
        else:
            whose = "" if role == "model" else f"{role}: "
            raise ModelError(
                f"{whose}the model returned {type(answer).__name__}, expected a tensor of logits, limbeck.Outputs, "
                "or something with a tensor 'logits'"
            )
    _check_logits(model, found.logits, answer, role)
    return found


def _check_logits(model: nn.Module, logits: Any, answer: Any, role: str) -> None:
    if not isinstance(logits, Tensor):
        raise ModelError(f"{role}: its Outputs hold {type(logits).__name__} for logits, expected a tensor")
    if logits.dim() == 0:
        first = ", the first of a tuple such as (loss, logits)" if isinstance(answer, tuple) else ""
        raise ModelError(
            f"{role}: answers a single number{first}, expected logits (N, K) with a row for each sample; return the"
            " logits alone, or as the attribute or key 'logits'"
        )
    if logits.is_nested or logits.layout is not torch.strided:
        kind = "nested" if logits.is_nested else str(logits.layout).removeprefix("torch.")
        raise ModelError(f"{role}: answers a tensor that is {kind}, expected a dense one; return logits.to_dense()")
    if logits.is_meta and not all(weights.is_meta for weights in model.parameters()):
        raise ModelError(f"{role}: answers a tensor on the meta device, which holds no numbers; return its logits")
    if not logits.is_floating_point():
        raise ModelError(
            f"{role}: answers {str(logits.dtype).removeprefix('torch.')} numbers, expected floating-point logits; "
            "return them before argmax, and of complex ones the real part or the modulus"
        )
