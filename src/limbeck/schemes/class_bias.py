"""A student of a transfer set that lacks some classes, and a bias for these that is fitted on held-out samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.card import Card
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import fit_bias, predict
from limbeck.outputs import Outputs, run_model
from limbeck.schemes.context import Builder, Context, Sets
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher

__all__ = ["CARD", "Biased", "ClassBias"]

CARD = Card(
    name="class_bias",
    summary="after distillation without some classes, one bias for all of them is fitted on held-out samples",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="z_k + b for the classes k of the scheme, z_k for the others; b makes the fewest held-out errors",
)


class Biased(nn.Module):
    """A network with a bias added to its logits, (K,), which is part of its state.

    >>> network = Biased(nn.Linear(2, 3), 3)
    >>> _ = network.bias.copy_(torch.tensor([0.0, 0.0, 1.5]))
    >>> inputs = torch.zeros(1, 2)
    >>> (network(inputs).logits - network.network(inputs)).round(decimals=4)
    tensor([[0.0000, 0.0000, 1.5000]], grad_fn=<RoundBackward1>)
    """

    bias: Tensor

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, *inputs: Any, **named: Any) -> Outputs:
        """Return the network's outputs with the bias added to the logits."""
        outputs = run_model(self.network, named or inputs[0])
        return replace(outputs, logits=outputs.logits + self.bias.to(outputs.logits.dtype))


@dataclass(frozen=True)
class ClassBias(Scheme):
    """A student that learns as offline, and then gets one bias for some classes that its transfer set lacks.

    Attributes:
        classes: those that get the bias, by number or name; by default all that the transfer set has no sample of
            (`data.transfer.omit`).
    """

    classes: tuple[int | str, ...] = ()

    needs_held_out: ClassVar[bool] = True

    def roles(self) -> Mapping[str, str]:
        """Return the student before it got its bias."""
        return {"unbiased": "student distilled, without the bias"}

    def check(self, builder: Builder) -> str | None:
        """Refuse classes that the data does not have, and a bias of none or all."""
        try:
            chosen = self._numbers(builder.parts)
        except InputError as error:
            return str(error)
        if not chosen:
            return (
                "classes: found none, and the transfer set has samples of every class; name the classes that get the"
                " bias, or leave some out with data.transfer.omit"
            )
        if len(chosen) == builder.parts.train.classes:
            return f"classes: found all {len(chosen)} classes; expected some of them, a bias of all changes no answer"
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the network of a role; the bias is part of its state."""
        student = builder.student()
        return student if role == "unbiased" else Biased(student, builder.parts.train.classes)

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the one training; fitting a bias costs next to nothing."""
        return [self.planned_as("unbiased", "student distilled", builder, teacher)]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student, then fit the bias on the held-out part."""
        distiller = Distiller(context.student(), context.teacher(), context.objective())
        student = context.fit("unbiased", distiller, context.parts.transfer).student
        chosen = self._numbers(context.parts)

        def fitted() -> float:
            return fit_bias(predict(student, context.held_out).cpu(), context.held_out.labels.cpu(), chosen)

        bias = float(context.choose("bias", fitted))
        names = ", ".join(context.parts.train.class_names[label] for label in chosen)
        context.say(f"class_bias: {bias:+g} for {names}")
        biased = Biased(student, context.parts.train.classes)
        biased.bias[chosen] = bias
        context.keep("distilled", biased)
        return {"unbiased": student, "distilled": biased}

    def _numbers(self, parts: Sets) -> list[int]:
        """Return the numbers of the classes that get the bias; InputError for an unknown one, or one named twice."""
        every = range(parts.train.classes)
        if not self.classes:
            there = set(parts.alone.labels.tolist())
            return [label for label in every if label not in there]
        numbers = parts.train.class_numbers(self.classes)
        if set(numbers) - set(every) or len(set(numbers)) < len(numbers):
            raise InputError(f"classes: found {list(self.classes)}; expected numbers from 0 to {every[-1]}, each once")
        return list(numbers)
