"""Which layers a transform changes, and how a layer is replaced wherever it stands in a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from limbeck.errors import InputError, ModelError, one_of

__all__ = ["Selected", "check_globs", "matches", "owners", "replace_module", "select_layers"]

Complaint = Callable[[nn.Module], str | None]


@dataclass(frozen=True)
class Selected:
    """The layers that a transform changes, and why the others stay.

    layers: by path, in the order of the network; a module that stands at several paths is listed at each.
    kept: by path, why.
    """

    layers: Mapping[str, nn.Module]
    kept: Mapping[str, str]


def check_globs(select: Sequence[str], skip: Sequence[str]) -> None:
    """Require lists of patterns; InputError otherwise."""
    for key, globs in (("select", select), ("skip", skip)):
        if not all(isinstance(glob, str) and glob for glob in globs):
            raise InputError(
                f"{key}: found {list(globs)}, expected paths of layers or patterns, such as 'layer*.conv1'"
            )
    if not select:
        raise InputError("select: found an empty list, expected at least one pattern, such as '*'")


def matches(path: str, globs: Sequence[str]) -> bool:
    """Return whether a path is meant by a pattern: by `*`, or as a part below a path that is named.

    >>> matches("layer1.0.conv1", ["layer1.*"]), matches("layer1.0", ["layer1"]), matches("layer10", ["layer1"])
    (True, True, False)
    """
    return any(fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}.*") for glob in globs)


def select_layers(
    model: nn.Module, select: Sequence[str], skip: Sequence[str], *, kind: str, complaint: Complaint
) -> Selected:
    """Return the layers that patterns choose among those that hold weights.

    complaint: says of a layer why it cannot be changed; None where it can.
    Raises InputError where nothing is left, or a pattern means no layer with weights.
    """
    layers: dict[str, nn.Module] = {}
    kept: dict[str, str] = {}
    weighted = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if "parametrizations" not in path.split(".")
        and (hasattr(module, "parametrizations") or next(module.parameters(recurse=False), None) is not None)
    }
    for key, globs in (("select", select), ("skip", skip)):
        for glob in globs:
            if weighted and not any(matches(path, [glob]) for path in weighted):
                raise InputError(f"{key}: '{glob}' names no layer with weights; {one_of(glob, weighted)}")
    for path, module in weighted.items():
        if not matches(path, select):
            kept[path] = "not selected"
        elif matches(path, skip):
            kept[path] = "skipped"
        elif (why := complaint(module)) is not None:
            kept[path] = why
        else:
            layers[path] = module
    if not layers:
        able = [path for path, module in weighted.items() if complaint(module) is None]
        found = f"{list(select)}" + (f" without {list(skip)}" if skip else "")
        already = next((f"'{path}': {why}" for path, why in kept.items() if "already" in why), "this one has none")
        expected = f"some of: {', '.join(able[:10])}" if able else f"a model with such layers; {already}"
        skips = any(kept[path] == "skipped" for path in able)
        mend = ". Set skip: [] (limbeck compress: --skip none) to change the skipped layers as well" if skips else ""
        raise InputError(f"select: found {found}, which leaves no layer that {kind} changes; expected {expected}{mend}")
    return Selected(layers, kept)


def owners(model: nn.Module, tensor: Tensor) -> list[str]:
    """Return the names of all parameters of a network that are one tensor."""
    return [name for name, each in model.named_parameters(remove_duplicate=False) if each is tensor]


def replace_module(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put a module in the place of another, and return the network: the new module where the path is that of the root.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> replace_module(model, "0", nn.ReLU())
    Sequential(
      (0): ReLU()
    )
    """
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    try:
        model.get_submodule(parent).register_module(name, new)
    except (AttributeError, KeyError) as error:
        raise ModelError(f"layers: the model has no module '{path}' to replace ({error})") from None
    return model
