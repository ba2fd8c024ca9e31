"""A specialist: a copy of the generalist that answers for some classes, and with a dustbin for all others."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, run_model

__all__ = ["DustbinLayer", "Specialist", "dustbin_shift", "specialise"]


def dustbin_shift(share: float, *, trained_share: float = 0.5) -> float:
    """Return what is added to the dustbin's logit after training on another mixture than the full data.

    With π the share of the specialist's classes in the full data and h their share in what it was trained on, training
    weighs the two kinds of example by h/π and (1-h)/(1-π), so that by Bayes' rule the odds of the dustbin against any
    class that it learns are too small by the factor of these.  The shift log((1-π)/π) + log(h/(1-h)) puts that right;
    the second part is 0 for halves (Hinton, Vinyals & Dean 2015, section 5.2, has it for their sampling).

    share, trained_share: in (0, 1).

    >>> round(dustbin_shift(0.1), 4)
    2.1972
    """
    for name, value in (("share", share), ("trained_share", trained_share)):
        checks.unit_interval(name, value)
        if not 0 < value < 1:
            raise InputError(f"{name}: found {value!r}, expected a number between 0 and 1")
    return math.log1p(-share) - math.log(share) + math.log(trained_share) - math.log1p(-trained_share)


class DustbinLayer(nn.Module):
    """A last linear layer with one more row, the dustbin, which comes last.

    The row starts at the mean of those of `others`, and its bias log(number of others) above the mean of theirs: where
    they agree, its logit is the log of the sum of what they gave.
    """

    def __init__(self, layer: nn.Linear, others: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.dustbin = nn.Linear(layer.in_features, 1, dtype=layer.weight.dtype, device=layer.weight.device)
        with torch.no_grad():
            at_zero = layer(layer.weight.new_zeros(1, layer.in_features))
            rows = layer(torch.eye(layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)) - at_zero
            self.dustbin.weight.copy_(rows[:, others].mean(1)[None])
            self.dustbin.bias.copy_(at_zero[0, others].mean() + math.log(len(others)))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.layer(features), self.dustbin(features)], -1)


class Specialist(nn.Module):
    """A network that answers (N, |S|+1): the classes of its set S, in rising order, and the dustbin.

    network: answers K logits, and behind them the dustbin's.  Where `full`, it answers K logits alone, and the dustbin
    is the log of the sum of what the other classes get; all K are then in `Outputs.heads["full"]`.
    member: (K,) bool, the set.  `shift` is added to the dustbin, or to all classes outside the set: 0 while it learns.
    """

    member: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, member: Tensor, *, full: bool = False) -> None:
        super().__init__()
        self.network = network
        self.full = full
        self.register_buffer("member", member)
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64, device=member.device))

    @property
    def classes(self) -> Tensor:
        """The set, (|S|,) int64, in the order of the outputs."""
        return self.member.nonzero().squeeze(1)

    @property
    def answered(self) -> Tensor:
        """The classes that take part in the answering rule, beside a dustbin: all of them for a full softmax."""
        return torch.arange(len(self.member), device=self.member.device) if self.full else self.classes

    def forward(self, *inputs: Any, **named: Any) -> Outputs:
        """Return logits (N, |S|+1), and for a full softmax heads["full"] (N, K)."""
        logits = run_model(self.network, named or inputs[0]).logits
        expected = len(self.member) + (not self.full)
        if logits.shape[-1] != expected:
            raise ModelError(f"specialist: its network answers {logits.shape[-1]} logits, expected {expected}")
        shift = self.shift.to(logits.dtype)
        if not self.full:
            return Outputs(torch.cat([logits[:, self.classes], logits[:, -1:] + shift], -1))
        whole = torch.where(self.member, logits, logits + shift)
        rest = whole[:, ~self.member].logsumexp(-1, keepdim=True)
        return Outputs(torch.cat([whole[:, self.classes], rest], -1), heads={"full": whole})

    def extra_repr(self) -> str:
        """Return what the parts do not say."""
        return f"full={self.full}"


def specialise(generalist: nn.Module, classes: Sequence[int], *, full: bool = False, layer: str = "") -> Specialist:
    """Return a specialist on `classes` that starts from the generalist's weights; the generalist is left as it is.

    classes: of the set, not all.  full: keep a softmax over all classes instead of a dustbin.
    layer: path of the generalist's last linear layer, by default its last `nn.Linear`.
    Raises ModelError where there is none, InputError when the classes are no such set.

    >>> generalist = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
    >>> specialise(generalist, [1, 4])(torch.zeros(2, 3)).logits.shape
    torch.Size([2, 3])
    """
    paths = [path for path, module in generalist.named_modules() if isinstance(module, nn.Linear)]
    if not paths or (layer and layer not in paths):
        named = f"no linear layer '{layer}'" if layer else "no linear layer"
        raise ModelError(f"generalist: it has {named}; name its last one, a torch.nn.Linear, as layer")
    path = layer or paths[-1]
    last = generalist.get_submodule(path)
    if not isinstance(last, nn.Linear):
        raise ModelError(f"generalist: '{path}' is a {type(last).__name__}, expected a torch.nn.Linear")
    size = last.out_features
    chosen = sorted(set(classes))
    if not chosen or len(chosen) < len(classes) or not 0 <= chosen[0] <= chosen[-1] < size or len(chosen) == size:
        raise InputError(
            f"classes: found {checks.shown(list(classes))}, expected some but not all of 0 to {size - 1}, each once"
        )
    device = last.weight.device
    member = torch.zeros(size, dtype=torch.bool, device=device)
    member[chosen] = True
    network = copy.deepcopy(generalist).requires_grad_(True)
    if not full:
        grown = DustbinLayer(network.get_submodule(path), (~member).nonzero().squeeze(1))  # type: ignore[arg-type]
        if not path:
            return Specialist(grown, member)
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, grown)
    return Specialist(network, member, full=full)
