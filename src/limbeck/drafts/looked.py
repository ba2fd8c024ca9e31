"""What data is, as far as a first recipe needs to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Form", "Looked"]

Form = Literal["table", "vectors", "images", "sentences", "stream"]
"""What a sample is: a row of named columns, numbers in any shape, an image, a sentence, or a part of a running text."""


@dataclass(frozen=True)
class Looked:
    """What was found where data lies.

    Attributes:
        form: what a sample is.
        keys: `data` of the recipe, without what depends on wishes.
        samples: how many there are, about.
        facts: lines that say what was found, and why keys are as they are.
        task: what a label is.
        side: of images, the smaller of height and width.
        colour: of images, whether they have three channels.
        labels: the columns that could be the label; empty where there is no choice.

    Example:
        >>> Looked("images", {"kind": "mnist"}, 60_000, side=28).task
        'classification'
    """

    form: Form
    keys: Mapping[str, Any]
    samples: int
    facts: tuple[str, ...] = ()
    task: str = "classification"
    side: int = 0
    colour: bool = False
    labels: tuple[str, ...] = field(default=())
