"""A first recipe: for the data that was found a teacher, a student that is smaller, a method and training settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from limbeck import checks
from limbeck.drafts.given import Given, given_teacher
from limbeck.drafts.looked import Looked
from limbeck.errors import InputError

__all__ = ["AIMS", "SIZES", "Draft", "Wishes", "draft"]

SIZES = {"half": 0.5, "quarter": 0.25, "tenth": 0.1}
"""How large the student is, as a share of the teacher's weights, about."""

AIMS = ("accuracy", "quick", "proof")
"""What matters: the student's accuracy, a first result soon, or a comparison that holds."""

_FEW, _MANY = 2_000, 20_000
_HEADS = 4


@dataclass(frozen=True)
class Wishes:
    """What the author of a recipe wants.

    Attributes:
        teacher: "" to train one; otherwise a network that exists or a kind of model (`given_teacher`).
        size: of the student: "half", "quarter" or "tenth" of the teacher's weights, about.
        aim: "accuracy", "quick" or "proof".

    Raises:
        InputError: if a wish is none of these.

    Example:
        >>> Wishes(size="tenth").aim
        'accuracy'
    """

    teacher: str = ""
    size: str = "quarter"
    aim: str = "accuracy"

    def __post_init__(self) -> None:
        checks.choice("size", self.size, tuple(SIZES))
        checks.choice("aim", self.aim, AIMS)

    @property
    def width(self) -> float:
        """The factor of a layer's width with which a network has the share of weights that is wanted."""
        return float(SIZES[self.size] ** 0.5)


@dataclass(frozen=True)
class Draft:
    """A recipe's keys, and comments by section.

    Attributes:
        keys: of the recipe.
        comments: lines that stand above a section, by its key.
    """

    keys: Mapping[str, Any]
    comments: Mapping[str, Sequence[str]]


def draft(looked: Looked, wishes: Wishes, name: str) -> Draft:
    """Return a first recipe for data.

    Args:
        looked: what was found.
        wishes: what is wanted.
        name: of the recipe.

    Returns:
        Its keys, and comments that say why.

    Raises:
        InputError: if the data has no such teacher.

    Example:
        >>> from limbeck.drafts import look
        >>> draft(look("digits"), Wishes(), "first").keys["student"]
        {'model': {'kind': 'cnn', 'channels': [16, 32]}}
    """
    given = given_teacher(wishes.teacher, looked) if wishes.teacher else None
    teacher, student, why = _NETWORKS[looked.form](looked, wishes)
    training = _training(looked, wishes)
    if given is not None:
        teacher = _taught(given, training, looked)
        why = given.why
    elif "model" in teacher:
        teacher = {**teacher, "training": training}
    keys: dict[str, Any] = {"name": name, "data": _data(looked, given), "teacher": teacher}
    keys |= {"student": {"model": student}, "method": _method(looked), "training": training}
    keys |= {"alone_budget": True, "seeds": [0, 1, 2, 3, 4]} if wishes.aim == "proof" else {"seeds": [0]}
    return Draft(keys, _comments(looked, wishes, why, keys))


def _data(looked: Looked, given: Given | None) -> dict[str, Any]:
    keys = dict(looked.keys)
    if given is not None and given.tokenizer is not None and looked.form in ("sentences", "stream"):
        keys["tokenizer"] = {"folder": given.tokenizer}
    if looked.form == "sentences":
        keys |= {"max_length": 64, "bucket": 20}
    return keys


def _taught(given: Given, training: Mapping[str, Any], looked: Looked) -> dict[str, Any]:
    """Return the keys of a teacher that is given, trained if its weights are not those of this task."""
    if given.trained:
        return dict(given.keys)
    if given.pretrained:
        short = {"epochs": 3, "batch_size": _batch(looked), "optimizer": "adamw", "learning_rate": 5e-5}
        return {**given.keys, "training": {**short, "schedule": "linear", "warmup_share": 0.1}}
    return dict(given.keys) if "estimator" in given.keys else {**given.keys, "training": dict(training)}


def _method(looked: Looked) -> dict[str, Any]:
    if looked.task == "regression":
        return {"name": "bounded_regression"}
    if looked.form == "stream":
        return {"name": "kd", "temperature": 1, "alpha": 0.5}
    return {"name": "kd", "temperature": 4 if looked.form == "images" else 2, "alpha": 0.1}


def _batch(looked: Looked) -> int:
    return 32 if looked.samples < _FEW else 64 if looked.samples < _MANY else 128


def _training(looked: Looked, wishes: Wishes) -> dict[str, Any]:
    """Return the settings of a training from random weights."""
    epochs = {"table": 60, "vectors": 60, "images": 40, "sentences": 10, "stream": 10}[looked.form]
    epochs = epochs if looked.samples < _MANY else max(5, epochs // 2)
    epochs = max(2, epochs // 4) if wishes.aim == "quick" else epochs
    if looked.form == "stream":
        return {"epochs": epochs, "optimizer": "adam", "learning_rate": 0.002, "clip": 1.0}
    if looked.form == "sentences":
        keys = {"epochs": epochs, "batch_size": _batch(looked), "optimizer": "adamw", "learning_rate": 5e-4}
        return {**keys, "schedule": "linear", "warmup_share": 0.1}
    rate = 0.01 if looked.task == "regression" else 0.05
    found: dict[str, Any] = {"epochs": epochs, "batch_size": _batch(looked), "learning_rate": rate}
    if looked.form == "images" and looked.task == "classification":
        found["augment"] = {"shift": max(1, looked.side // 16), **({"flip": 0.5} if looked.colour else {})}
    return found


_Found = tuple[dict[str, Any], dict[str, Any], str]


def _scaled(width: int, wishes: Wishes, *, least: int = 4, multiple: int = 1) -> int:
    return max(least, multiple * round(width * wishes.width / multiple))


def _for_tables(looked: Looked, wishes: Wishes) -> _Found:
    forest = looked.task == "classification"
    kind = {"kind": "extra_trees", "n_estimators": 300} if forest else {"kind": "gradient_boosting"}
    hidden = [_scaled(128, wishes, multiple=8)] * 2
    why = "trees are hard to beat on tables; their answers carry over to a network of any size"
    return {"estimator": kind}, {"kind": "mlp", "hidden": hidden}, why


def _for_vectors(_looked: Looked, wishes: Wishes) -> _Found:
    teacher = {"kind": "mlp", "hidden": [256, 256], "dropout": 0.2}
    student = {"kind": "mlp", "hidden": [_scaled(256, wishes, multiple=8)] * 2}
    return {"model": teacher}, student, "fully connected networks, for numbers without names"


def _for_images(looked: Looked, wishes: Wishes) -> _Found:
    if looked.task == "dense":
        large, small = ({"kind": "fcn", "channels": [width] * 3} for width in (32, _scaled(32, wishes)))
        return {"model": large}, small, "convolutions that give a class for each pixel"
    if looked.side >= 32 and looked.samples >= _FEW and looked.task == "classification":
        depth = {"half": 32, "quarter": 20, "tenth": 8}[wishes.size]
        return {"model": {"kind": "resnet56"}}, {"kind": f"resnet{depth}"}, "residual networks, for enough images"
    stages = min(3, int(log2(max(2, looked.side))) - 1) or 1
    channels = [32 * 2**stage for stage in range(stages)]
    teacher: dict[str, Any] = {"kind": "cnn", "channels": channels, "dropout": 0.2}
    student = {"kind": "cnn", "channels": [_scaled(each, wishes) for each in channels]}
    return {"model": teacher}, student, "plain convolutional networks, which train fast and suffice for few images"


def _for_sentences(_looked: Looked, wishes: Wishes) -> _Found:
    teacher = {"kind": "transformer", "layers": 4, "width": 256, "heads": _HEADS}
    student = {"kind": "transformer", "layers": 3, "width": _scaled(256, wishes, multiple=4 * _HEADS), "heads": _HEADS}
    why = "transformers from random weights; a pretrained teacher is better by far: --from-model FOLDER of one"
    return {"model": teacher}, student, why


def _for_streams(_looked: Looked, wishes: Wishes) -> _Found:
    teacher, student = (
        {"kind": "lstm_lm", "embedding": width, "hidden": width, "layers": 2} for width in (200, _scaled(200, wishes))
    )
    return {"model": teacher}, student, "recurrent language models on words"


_NETWORKS: Mapping[str, Callable[[Looked, Wishes], _Found]] = {
    "table": _for_tables,
    "vectors": _for_vectors,
    "images": _for_images,
    "sentences": _for_sentences,
    "stream": _for_streams,
}


def _comments(looked: Looked, wishes: Wishes, why: str, keys: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what stands above each section."""
    method = keys["method"]["name"]
    soft = (
        "The student learns from the labels, and from the teacher while the teacher is closer to them."
        if method == "bounded_regression"
        else "alpha is the weight of the labels, 1 - alpha that of the teacher's softened answers."
    )
    alike = wishes.teacher == "" and "model" in keys["teacher"]
    small = (
        f"It has about a {wishes.size} of the teacher's weights."
        if alike
        else "A small network; --size sets its width."
    )
    seeds = (
        "Five seeds give intervals; alone_budget also trains the student alone for as long as all of this takes."
        if wishes.aim == "proof"
        else "One seed is a first look; [0, 1, 2, 3, 4] gives intervals."
    )
    return {
        "data": [*(f"{fact[0].upper()}{fact[1:]}." for fact in looked.facts)],
        "teacher": [f"{why[0].upper()}{why[1:]}."],
        "student": [small],
        "method": [soft],
        "training": ["Of the student, alone and distilled alike. Choices are made on a tenth of the training samples."],
        "seeds" if wishes.aim != "proof" else "alone_budget": [seeds],
    }


def name_of(file: Path) -> str:
    """Return the name of a recipe that is written to a file.

    >>> name_of(Path("my first recipe.yaml"))
    'my-first-recipe'
    """
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in file.stem)
    found = kept.strip("._-")[:100]
    if not found:
        raise InputError(
            f"file: '{file}' has no letter or digit to name the recipe by; expected one, such as first.yaml"
        )
    return found
