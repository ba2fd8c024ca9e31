"""Sharing: several layers with one set of weights, such as the embedding and the softmax of a language model."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.selection import replace_module
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import computed_complaint
from limbeck.errors import InputError, ModelError, one_of

__all__ = ["CARD", "Share"]

CARD = Card(
    name="share",
    summary="layers that have one set of weights: embedding and softmax, or layers across depth",
    authors="Ofir Press, Lior Wolf",
    year=2017,
    title="Using the Output Embedding to Improve Language Models",
    source="https://arxiv.org/abs/1608.05859",
    formula="logits = E·(P·h + b_P) + b with the embedding's E; P is left out where h has the size of E's rows",
)


@checked_fields
@dataclass(frozen=True)
class Share(Transform):
    """Let layers share the weights of one of them.

    Two layers of one class and the same shapes share everything.  Of other layers, such as an embedding and a softmax,
    the `weight` alone is shared.  Where a softmax reads a hidden state of another size than the embedding's rows, a
    linear layer P with bias is put in front of it; P begins as the least-squares solution of E·P = W, so that the
    logits change as little as they can.

    Attributes:
        owner: the path of the layer, or of the parameter, whose values all have afterwards.
        others: paths of those that share them.
        projection: "auto" puts P where it is needed; "none" refuses other sizes.
        mean: begin with the mean of all values in place of the owner's.

    Raises:
        InputError: if there is no other path, or one twice.

    Example:
        >>> model = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "softmax": nn.Linear(4, 10)})
        >>> shared, log = Share(owner="softmax", others=("embedding",)).apply(model)
        >>> log.changed, shared["embedding"].weight is shared["softmax"].weight
        ({'embedding.weight': 'is softmax.weight (10, 4)'}, True)

    Reference:
        Press & Wolf (2017), "Using the Output Embedding to Improve Language Models", arXiv:1608.05859; Lan et al.
        (2020), "ALBERT", arXiv:1909.11942, for layers across depth.
    """

    owner: str
    others: tuple[str, ...]
    projection: Literal["auto", "none"] = "auto"
    mean: bool = False

    def __post_init__(self) -> None:
        named = [self.owner, *self.others]
        if not self.others or len(set(named)) != len(named) or not all(named):
            raise InputError(
                f"others: found {list(self.others)} beside owner '{self.owner}', expected one path or more, each once"
            )
        checks.choice("projection", self.projection, ("auto", "none"))

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Share the weights."""
        names = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
        before = {name: each.detach().clone() for name, each in model.named_parameters(remove_duplicate=False)}
        projected = {path: width for path in self.others if (width := self._projected(model, path)) is not None}
        if projected and self.mean:
            raise InputError(
                f"mean: found true, but '{next(iter(projected))}' needs a projection, whose values have no mean with "
                "the owner's; set mean: false"
            )
        pairs = list(self._pairs(model, projected))
        changed = self.restructure(model, {"projections": projected})
        if self.mean:
            values: dict[str, list[Tensor]] = {}
            for own, other in pairs:
                values.setdefault(own, [before[own]]).append(before[other])
            for own, each in values.items():
                changed.get_parameter(own).copy_(torch.stack([value.double() for value in each]).mean(0))
        for path in projected:
            vectors, weights = changed.get_parameter(f"{path}.out.weight").double(), before[f"{path}.weight"].double()
            changed.get_parameter(f"{path}.projection.weight").copy_(torch.linalg.lstsq(vectors, weights).solution)
            changed.get_parameter(f"{path}.projection.bias").zero_()
        told = {other: f"is {own} {tuple(before[own].shape)}" for own, other in pairs}
        told |= {
            f"{path}.out.weight": f"is {self._weight(model, self.owner)[0]}, behind a projection to {width}"
            for path, width in projected.items()
        }
        kept = {name: "not named" for name in names if not any(f"{each}.".startswith(f"{name}.") for each in told)}
        return changed, Log(told, kept, {"projections": projected})

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Tie the weights, behind projections where these are planned."""
        projected = {str(path): int(width) for path, width in plan["projections"].items()}
        pairs = list(self._pairs(model, projected))
        own, vectors = self._weight(model, self.owner) if projected else ("", None)
        for path, width in projected.items():
            old = model.get_submodule(path)
            if not isinstance(old, nn.Linear) or vectors is None:
                raise InputError(f"others: '{path}' is a {type(old).__name__}, expected a linear layer")
            like: dict[str, Any] = {"dtype": old.weight.dtype, "device": old.weight.device}
            out = nn.Linear(width, old.out_features, bias=old.bias is not None, **like)
            out.bias = old.bias
            new = nn.Sequential(OrderedDict(projection=nn.Linear(old.in_features, width, **like), out=out))
            model = replace_module(model, path, new.train(old.training))
            pairs.append((own, f"{path}.out.weight"))
        for first, other in pairs:
            parent, _, name = other.rpartition(".")
            model.get_submodule(parent).register_parameter(name, model.get_parameter(first))
        return model

    def _projected(self, model: nn.Module, path: str) -> int | None:
        """Return the width that a softmax's hidden state is brought to; None where it has that of the owner's rows."""
        found = _found(model, path, "others")
        if not isinstance(found, nn.Linear) or self.projection == "none" or "weight" not in _names(model, self.owner):
            return None
        rows, width = self._weight(model, self.owner)[1].shape[0], self._weight(model, self.owner)[1].shape[-1]
        return width if found.out_features == rows and found.in_features != width else None

    def _weight(self, model: nn.Module, path: str) -> tuple[str, nn.Parameter]:
        found = _found(model, path, "owner")
        if isinstance(found, nn.Parameter):
            return path, found
        return f"{path}.weight", found.get_parameter("weight")

    def _pairs(self, model: nn.Module, projected: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Yield the names of what is shared: the owner's, and the other's."""
        owner = _found(model, self.owner, "owner")
        for path in self.others:
            other = _found(model, path, "others")
            if path in projected:
                continue
            if isinstance(owner, nn.Parameter) or isinstance(other, nn.Parameter):
                own, given = self._weight(model, self.owner)[0], self._weight(model, path)[0]
                pairs = [(own, given)]
            elif type(owner) is type(other) and _shapes(owner) == _shapes(other):
                pairs = [(f"{self.owner}.{name}", f"{path}.{name}") for name in _shapes(owner)]
            else:
                for each, whose in ((owner, self.owner), (other, path)):
                    if "weight" not in dict(each.named_parameters(recurse=False)):
                        raise ModelError(
                            f"others: '{self.owner}' ({type(owner).__name__}) and '{path}' ({type(other).__name__}) are"
                            f" of different kinds and '{whose}' has no weight; name parameters, such as '{path}.NAME'"
                        )
                pairs = [(f"{self.owner}.weight", f"{path}.weight")]
            for own, given in pairs:
                one, two = model.get_parameter(own), model.get_parameter(given)
                if one is two:
                    raise ModelError(f"others: '{given}' is '{own}' already; leave it out")
                if one.shape != two.shape:
                    mend = "leave projection at auto" if isinstance(other, nn.Linear) else "name other layers"
                    raise ModelError(
                        f"others: '{given}' is {tuple(two.shape)}, expected {tuple(one.shape)} as '{own}' is; {mend}"
                    )
            yield from pairs


def _found(model: nn.Module, path: str, key: str) -> nn.Module | nn.Parameter:
    """Return the module or parameter of a path; ModelError for none."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path in modules:
        if complaint := computed_complaint(modules[path], "share"):
            raise ModelError(f"{key}: '{path}': {complaint}")
        return modules[path]
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    if path in parameters:
        return parameters[path]
    raise ModelError(f"{key}: the model has no layer '{path}'; {one_of(path, [each for each in modules if each])}")


def _names(model: nn.Module, path: str) -> list[str]:
    found = _found(model, path, "owner")
    return (
        ["weight"] if isinstance(found, nn.Parameter) else [name for name, _ in found.named_parameters(recurse=False)]
    )


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in module.named_parameters(remove_duplicate=False)}
