"""A teacher that exists: its weights, the function that builds it, or the name of a kind of model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck import models
from limbeck.drafts.looked import Looked
from limbeck.errors import InputError, one_of
from limbeck.models.layers import read_configuration
from limbeck.teachers import estimators

__all__ = ["Given", "given_teacher"]

_FACTORY = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class Given:
    """A teacher as a recipe names it.

    Attributes:
        keys: of `teacher`, without training.
        why: the comment that stands above it.
        trained: whether it teaches as it is.
        pretrained: whether its weights come from another task, so that it trains shortly.
        tokenizer: the folder of its tokenizer; None for none.
    """

    keys: Mapping[str, Any]
    why: str
    trained: bool = False
    pretrained: bool = False
    tokenizer: str | None = None


def given_teacher(name: str, looked: Looked) -> Given:
    """Return the teacher that a name stands for.

    Args:
        name: KIND:FILE, a file of weights of a network of limbeck (resnet56:teacher.safetensors);
            package.module:function, a function that returns the trained network; a folder that `save_pretrained` of
            Transformers wrote; or a kind of model or estimator, which is trained.
        looked: the data.

    Returns:
        The keys of `teacher`.

    Raises:
        InputError: if it is none of these, or does not fit the data.

    Example:
        >>> from limbeck.drafts import look
        >>> given_teacher("resnet56", look("cifar10")).keys
        {'model': {'kind': 'resnet56'}}
    """
    kinds = [*models.names(), *models.published()]
    kind, _, file = name.partition(":")
    if kind in kinds and file:
        if not Path(file).expanduser().exists():
            raise InputError(f"from-model: there is no file '{file}'; expected the weights of a {kind}")
        keys = {"model": {"kind": kind, "checkpoint": file}}
        return Given(keys, f"the weights of {Path(file).name} teach as they are", trained=True)
    if _FACTORY.fullmatch(name):
        own: dict[str, Any] = {"model": {"factory": name}, "training": "none"}
        return Given(own, "your function returns the trained network; leave training out if it is to be trained", True)
    if Path(name).expanduser().is_dir():
        return _folder(name, looked)
    if name in kinds:
        return Given({"model": {"kind": name}}, f"a {name}, trained on labels first")
    if name in estimators.kinds():
        return Given({"estimator": {"kind": name}}, f"scikit-learn's {name}, fitted on labels first")
    if Path(name).expanduser().is_file():
        raise InputError(
            f"from-model: found the file '{name}', which does not say what network it is of; expected KIND:FILE, such"
            f" as resnet56:{name}, or package.module:function"
        )
    raise InputError(
        f"from-model: found '{name}', which is no file and no kind; {one_of(name, [*kinds, *estimators.kinds()])}"
    )


def _folder(name: str, looked: Looked) -> Given:
    """Return the teacher of a folder of Transformers, with a small transformer as its student."""
    if looked.form != "sentences":
        raise InputError(
            f"from-model: '{name}' is a folder, as the library Transformers saves networks of texts, and the data is of"
            f" form {looked.form}; expected texts with labels, or package.module:function"
        )
    config = read_configuration(Path(name).expanduser())
    heads = [str(each) for each in config.get("architectures") or []]
    ready = any(each.endswith("ForSequenceClassification") for each in heads)
    keys = {"model": {"kind": "pretrained", "folder": name, "head": "classification"}}
    why = (
        "it classifies already, and teaches as it is"
        if ready
        else "its last layer is new, so it is trained for 3 epochs"
    )
    return Given(keys, why, trained=ready, pretrained=not ready, tokenizer=name)
