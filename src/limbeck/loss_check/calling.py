"""How a user's loss is called: which of its parameters is the student, the teacher, the labels, T or a weight."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limbeck.checks import shown
from limbeck.errors import InputError, one_of

__all__ = ["Argument", "Call", "discovered"]

INPUTS = ("student", "teacher", "labels", "T", "alpha")
"""What parameters without a known name are taken for, in this order."""

PROBABILITIES = ("student_probs", "student_log_probs", "teacher_probs", "teacher_log_probs")
ROLES = (*INPUTS, "soft_weight", "mask", *PROBABILITIES)

_TEMPERATURE = {"temperature", "temp", "tau"}
_SOFT = {"soft", "kd", "kl", "distil", "distill", "distillation", "teacher"}
_HARD = {"hard", "ce", "gt", "label", "labels", "nll", "student"}
_WEIGHT = {"weight", "weights", "lambda", "coef", "coefficient", "alpha", "ratio"}
_LABELS = {"label", "labels", "target", "targets", "gt", "true", "truth"}
_ANSWERS = {"logit", "logits", "output", "outputs", "pred", "preds", "prediction", "predictions", "input", "inputs"}
_ANSWERS |= {"score", "scores", "y", "x", "z"}


@dataclass(frozen=True)
class Argument:
    """One argument of a call: what it stands for, or a constant.

    name: None if it is passed by position.  role: of `ROLES`; None for a constant.  value: the constant.
    """

    name: str | None
    role: str | None
    value: Any = None

    def __str__(self) -> str:
        what = repr(self.value) if self.role is None else "1 - alpha" if self.role == "soft_weight" else self.role
        return what if self.name is None else f"{self.name}={what}"


@dataclass(frozen=True)
class Call:
    """A loss and how it is called.

    function: a function, a module, or the class of one.  arguments: of the call.  building: of the class; None if
    `function` is no class.  temperature, alpha: what an instance has as attributes, and so cannot be chosen.
    """

    function: Callable[..., Any]
    name: str
    arguments: tuple[Argument, ...]
    building: tuple[Argument, ...] | None = None
    temperature: float | None = None
    alpha: float | None = None
    optional: frozenset[str] = frozenset()

    def takes(self, role: str) -> bool:
        """Return whether a role is among the arguments."""
        return any(each.role == role for each in (*self.arguments, *(self.building or ())))

    @property
    def weighted(self) -> bool:
        """Whether the weights of hard labels and soft targets are known: as an argument, or as an attribute."""
        return self.alpha is not None or self.takes("alpha") or self.takes("soft_weight")

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Call the loss with a value for each role."""
        function = self.function
        if self.building is not None:
            positional, named = _passed(self.building, values)
            function = function(*positional, **named)
        positional, named = _passed(self.arguments, values)
        return function(*positional, **named)

    def __str__(self) -> str:
        built = "" if self.building is None else f"({', '.join(map(str, self.building))})"
        return f"{self.name}{built}({', '.join(map(str, self.arguments))})"


def discovered(function: Callable[..., Any], call: str | None = None) -> Call:
    """Return how a loss is called, by the names of its parameters or as `call` says.

    Raises InputError if the names do not say it, or `call` cannot be read.

    >>> def loss(y, labels, teacher_scores, temp, alpha): ...
    >>> str(discovered(loss))
    'loss(y=student, labels=labels, teacher_scores=teacher, temp=T, alpha=alpha)'
    """
    name = getattr(function, "__name__", type(function).__name__)
    building: tuple[Argument, ...] | None = None
    asked: Any = function
    if inspect.isclass(function):
        asked = function.forward if issubclass(function, nn.Module) else function.__call__
        building = () if function.__init__ is object.__init__ else None
    elif isinstance(function, nn.Module):
        asked = function.forward
    if call is not None:
        written, arguments = _written(call)
        if inspect.isclass(function):
            building = written if written is not None else _of_constructor(function, name)
        elif written is not None:
            raise InputError(
                f"call: found {shown(call)} with two pairs of brackets; {name} is no class, write one pair"
            )
        found = Call(function, name, arguments, building)
    else:
        parameters = _parameters(asked, name, method=inspect.isclass(function))
        if inspect.isclass(function) and building is None:
            building = _of_constructor(function, name)
        held = {each.role for each in building or () if each.role}
        arguments = _by_name(parameters, name, held | (set() if inspect.isclass(function) else _held(function).keys()))
        optional = {
            each.role
            for each in arguments
            for parameter in parameters
            if each.role and parameter.name == each.name and parameter.default is None
        }
        found = Call(function, name, arguments, building, optional=frozenset(optional))
    if not any(each.role and each.role.startswith("student") for each in found.arguments):
        raise InputError(f"call: found no parameter of {name} for the student's logits; {_SAY}")
    return _with_attributes(found)


_SAY = 'say how it is called, such as call="student, teacher, labels, T, alpha" (--call on the command line)'


def _with_attributes(call: Call) -> Call:
    """Return a call of an instance with the temperature and the weight that it has as attributes."""
    if inspect.isclass(call.function):
        return call
    held = _held(call.function)
    temperature = None if call.takes("T") else held.get("T")
    alpha = held.get("alpha", 1 - held["soft_weight"] if "soft_weight" in held else None)
    if call.takes("alpha") or call.takes("soft_weight"):
        alpha = None
    return Call(call.function, call.name, call.arguments, None, temperature, alpha, call.optional)


def _held(function: Callable[..., Any]) -> dict[str, float]:
    """Return the numbers that an instance has as attributes, by role."""
    if inspect.isroutine(function):
        return {}
    found: dict[str, float] = {}
    for name, value in getattr(function, "__dict__", {}).items():
        role = role_of(name)
        if role in ("T", "alpha", "soft_weight") and isinstance(value, int | float) and not isinstance(value, bool):
            found.setdefault(role, float(value))
    return found


def _of_constructor(function: Callable[..., Any], name: str) -> tuple[Argument, ...]:
    """Return the arguments that a class is built with: T and weights by name, the rest as its defaults are."""
    arguments = []
    for parameter in _parameters(function, f"{name}.__init__"):
        role = role_of(parameter.name)
        if role in ("T", "alpha", "soft_weight") or (role == "teacher" and parameter.name == "t"):
            arguments.append(Argument(parameter.name, "T" if role == "teacher" else role))
        elif parameter.default is parameter.empty:
            raise InputError(
                f"call: found '{parameter.name}' among the parameters of {name}, and not what it stands for; build it"
                ' yourself and give the instance, or say it, such as call="(T, alpha)(student, teacher, labels)"'
            )
    return tuple(arguments)


def _parameters(function: Any, name: str, *, method: bool = False) -> list[inspect.Parameter]:
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise InputError(f"call: found no signature of {name}; {_SAY}") from None
    return [each for each in found[method:] if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _by_name(parameters: Sequence[inspect.Parameter], name: str, held: set[str]) -> tuple[Argument, ...]:
    """Return the arguments of a call by the parameters' names, and by position where a name says nothing."""
    roles = {each.name: role_of(each.name) for each in parameters}
    if "alpha" in roles:  # other weights beside it are another way to say the same
        others = {each.name for each in parameters if each.name != "alpha" and each.default is not each.empty}
        roles = {
            each: None if each in others and role in ("alpha", "soft_weight") else role for each, role in roles.items()
        }
    taken = [role for role in roles.values() if role is not None]
    for each, role in list(roles.items()):
        if role is not None and taken.count(role) > 1:  # two that may be the same: the clearer one is it
            roles[each] = _other(each, role, taken)
    for wanted, name_of_it in (("teacher", "target"), ("teacher", "targets"), ("labels", "y")):
        if wanted not in roles.values() and roles.get(name_of_it) in ("labels", "student") and len(roles) > 1:
            rest = {role for each, role in roles.items() if each != name_of_it}
            if "student" in rest and (wanted == "labels" or "labels" not in rest):
                roles[name_of_it] = wanted
    found = {str(role).removesuffix("_probs").removesuffix("_log") for role in roles.values()}
    free = [role for role in INPUTS if role not in found | held]
    arguments = []
    for parameter in parameters:
        role = roles[parameter.name]
        if role is None and parameter.default is parameter.empty:
            if not free:
                raise InputError(
                    f"call: found '{parameter.name}' among the parameters of {name}, and not what it stands for; {_SAY}"
                )
            role = free.pop(0)
        if role is not None:
            arguments.append(Argument(None if parameter.kind is parameter.POSITIONAL_ONLY else parameter.name, role))
    return tuple(arguments)


def _other(name: str, role: str, taken: Sequence[str]) -> str | None:
    """Return what a parameter is if another one has the same role: `t` is T beside a teacher, `y` the labels."""
    if name == "t" and role == "teacher":
        return "T" if "T" not in taken else None
    if name == "y" and role == "student":
        return "labels" if "labels" not in taken else None
    return role if name not in ("x", "z") else None


def role_of(name: str) -> str | None:
    """Return what a parameter stands for by its name; None if the name does not say.

    >>> [role_of(each) for each in ("y_s", "logits_teacher", "gt", "tau", "T", "distil_weight", "eps")]
    ['student', 'teacher', 'labels', 'T', 'T', 'soft_weight', None]
    """
    words = {each.lower() for each in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    if name == "T" or words & _TEMPERATURE:
        return "T"
    if "mask" in words:
        return "mask"
    if words & _WEIGHT or name == "alpha":
        return "soft_weight" if words & _SOFT else "alpha" if words & _HARD or words == {"alpha"} else None
    side = None
    if words & {"teacher", "tea", "tch", "soft"} or (("t" in words) and (len(words) > 1 or name == "t")):
        side = "teacher"
    elif words & {"student", "stu"} or "s" in words:
        side = "student"
    elif words & _LABELS:
        return "labels"
    elif words & _ANSWERS and words & {"prob", "probs", "log"} == set():
        return "student"
    if side and words & {"prob", "probs", "probabilities"}:
        return f"{side}_log_probs" if "log" in words else f"{side}_probs"
    if side and words & {"logprob", "logprobs", "logp"}:
        return f"{side}_log_probs"
    return side


def _written(text: str) -> tuple[tuple[Argument, ...] | None, tuple[Argument, ...]]:
    """Return the arguments of a class and of a call as a user writes them."""
    source = f"f{text}" if text.lstrip().startswith("(") else f"f({text})"
    try:
        call = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if not isinstance(call, ast.Call):
        raise InputError(f"call: found {shown(text)}, expected arguments; {_SAY}")
    outer = None
    if isinstance(call.func, ast.Call):
        outer = tuple(_arguments(call.func))
    return outer, tuple(_arguments(call))


def _arguments(call: ast.Call) -> Iterator[Argument]:
    for node in call.args:
        yield _argument(None, node)
    for keyword in call.keywords:
        yield _argument(keyword.arg, keyword.value)


def _argument(name: str | None, node: ast.expr) -> Argument:
    text = ast.unparse(node)
    if text.replace(" ", "") == "1-alpha":
        return Argument(name, "soft_weight")
    if isinstance(node, ast.Name):
        if text not in ROLES:
            raise InputError(f"call: found '{text}'; {one_of(text, ROLES)}")
        return Argument(name, text)
    try:
        return Argument(name, None, ast.literal_eval(node))
    except ValueError:
        raise InputError(f"call: found '{text}', expected one of {', '.join(ROLES)}, or a constant") from None


def _passed(arguments: Sequence[Argument], values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for each in arguments:
        value = each.value if each.role is None else _value(each.role, values)
        if each.name is None:
            positional.append(value)
        else:
            named[each.name] = value
    return positional, named


def _value(role: str, values: Mapping[str, Any]) -> Any:
    if role == "soft_weight":
        return 1.0 - values["alpha"]
    if role not in PROBABILITIES:
        return values[role]
    side, form = role.split("_", 1)
    logits: Tensor = values[side] / values["T"]
    return logits.softmax(-1) if form == "probs" else logits.log_softmax(-1)
