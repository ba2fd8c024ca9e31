"""The sets of a run: its data read, selected and split as the recipe says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from limbeck.batch import UNLABELLED
from limbeck.config import Recipe
from limbeck.data import HeldOut, SampleSet, Splits
from limbeck.data.names import ambiguous
from limbeck.errors import DataError, InputError, RecipeError
from limbeck.teachers import RestrictedModel

__all__ = ["Parts", "prepare"]


@dataclass(frozen=True)
class Parts:
    """The sets of a run.

    train, held_out: the training data without and as the validation part; held_out is None when refitting.  Where the
        transfer set is labelled in part, `train` is that part.
    transfer: what the student sees of `train`, for distillation.  alone: the same with labels, for the student alone.
    test: for the final figures alone.
    whole: the data as it was read, of which all of these are parts.
    taught: where the students serve some of the classes, the sets of all of them, which the teacher learns from.
    teacher_part: what of `train` the teacher learns from; None for all of it.
    general: other samples without labels, which the scheme's key `general` names; None where it names none.
    """

    train: SampleSet
    held_out: SampleSet | None
    transfer: SampleSet
    alone: SampleSet
    test: SampleSet
    taught: "Parts | None" = None
    whole: Splits | None = None
    teacher_part: SampleSet | None = None
    general: SampleSet | None = None

    @property
    def of_teacher(self) -> "Parts":
        """The sets that the teacher learns from."""
        parts = self if self.taught is None else self.taught
        return parts if parts.teacher_part is None else replace(parts, train=parts.teacher_part)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the data as it was read."""
        whole = self.of_teacher.whole
        return () if whole is None else tuple(f"data: {note}" for note in whole.notes)

    def serving(self, model: nn.Module) -> nn.Module:
        """Return a network that learnt from the teacher's sets as one that answers the students' classes."""
        if self.taught is None:
            return model
        return RestrictedModel(
            model, self.taught.train.class_numbers(self.train.class_names), self.taught.train.classes
        )


def prepare(recipe: Recipe, *, refit: bool = False, splits: Splits | None = None) -> Parts:
    """Load and split a recipe's data.

    refit: use all training data, without a validation part, once every choice is made.
    splits: the recipe's data, if it was loaded already.
    """
    splits = recipe.load_data() if splits is None else splits
    train, held_out = splits.train, None
    if splits.validation is not None:
        held_out = _published(recipe, splits.validation)
    elif not refit:
        try:
            train, held_out = recipe.validation.split(splits.train)
        except InputError as error:
            raise RecipeError(f"validation: {error}") from None
    try:
        train = recipe.selection.noisy(train)
    except InputError as error:
        raise RecipeError(f"data.{error}") from None
    try:
        transfer = recipe.transfer.apply(train, seed=0)
    except (DataError, InputError) as error:
        raise DataError(f"data.transfer: {error}") from None
    alone = transfer
    if recipe.transfer.labelled < 1:  # nobody knows the other labels, the teacher included
        train = alone = transfer.subset((transfer.labels != UNLABELLED).nonzero().squeeze(1))
    if not recipe.transfer.labels:
        alone = train.subset(_positions(train, transfer))
        if "teacher" not in recipe.inspected.reads():
            raise RecipeError(
                "data.transfer.labels: found false, but the method needs labels; use one with soft targets"
            )
    if recipe.transfer.synthetic is not None:
        transfer = _extended(recipe, transfer)
    taught_on = None
    if recipe.teacher.data is not None:
        try:
            taught_on = recipe.teacher.data.of(train, seed=0)
        except (DataError, InputError) as error:
            raise DataError(f"teacher.data.{error}") from None
    general = _general(recipe, train)
    parts = Parts(train, held_out, transfer, alone, splits.test, whole=splits, teacher_part=taught_on, general=general)
    return parts if recipe.classes is None else _restricted(parts, recipe.classes, labels=recipe.transfer.labels)


def _published(recipe: Recipe, validation: SampleSet) -> SampleSet:
    """Return the part of the data for choices; RecipeError if the recipe asks for another one as well."""
    for key, found, usual in (("validation", recipe.validation, HeldOut(0.1)), ("refit", recipe.refit, False)):
        if found != usual:
            raise RecipeError(
                f"{key}: found beside data with a validation part of its own ({len(validation):,} samples); leave out"
                " one of them"
            )
    return validation


def _extended(recipe: Recipe, transfer: SampleSet) -> SampleSet:
    """Return the transfer set with the samples that are made of it, which only a teacher can label."""
    if "teacher" not in recipe.inspected.reads():
        raise RecipeError(
            "data.transfer.synthetic: makes samples that only a teacher labels, but the method reads none; name one "
            "with soft targets"
        )
    if any(member.arrays or member.stored for member in recipe.teacher.members):
        kind = "stored" if recipe.teacher.members[0].stored else "arrays"
        raise RecipeError(
            f"data.transfer.synthetic: makes samples that teacher.{kind} has no answers to; name a teacher that can be "
            "asked, or leave one of them out"
        )
    if recipe.classes is not None:
        raise RecipeError(
            "data.transfer.synthetic: makes samples of unknown class, but classes keeps only some classes; leave one "
            "of them out"
        )
    try:
        return recipe.transfer.extend(transfer, seed=0)
    except (DataError, InputError) as error:
        raise DataError(f"data.transfer.synthetic: {error}") from None


def _general(recipe: Recipe, train: SampleSet) -> SampleSet | None:
    """Return the samples that the scheme's key `general` names, without labels and with the classes of the data."""
    if recipe.general is None:
        return None
    where = "scheme.general.data"
    try:
        samples: SampleSet = recipe.general.build().train
    except (DataError, InputError) as error:
        raise DataError(f"{where}.{error}") from None
    ours, theirs = train.tokenizer, samples.tokenizer
    if (ours is None) != (theirs is None) or train.task.has_classes != samples.task.has_classes:
        raise DataError(f"{where}: found samples of another kind than the data's; expected texts beside texts")
    if ours is not None and theirs is not None:
        ours.require_same(theirs, what=where, whose="the data")
    most = getattr(recipe.scheme, "general", {}).get("first")
    samples = samples if most is None else samples.subset(torch.arange(min(most, len(samples))))
    labels = train.task.no_labels(samples.name, len(samples))
    return replace(samples, labels=labels, classes=train.classes, class_names=train.class_names, task=train.task)


def _restricted(parts: Parts, classes: Sequence[int | str], *, labels: bool) -> Parts:
    """Return the sets of students that serve some of the classes: their samples, labels being places among them."""

    def part(samples: SampleSet) -> SampleSet:
        renamed = samples.relabelled(classes)
        return renamed.subset(torch.where(renamed.labels != UNLABELLED)[0])

    if complaint := ambiguous(classes, parts.train.class_names):
        raise RecipeError(f"classes: {complaint}")
    try:
        alone = part(parts.alone)
        return Parts(
            train=part(parts.train),
            held_out=None if parts.held_out is None else part(parts.held_out),
            transfer=part(parts.transfer) if labels else alone.without_labels(),
            alone=alone,
            test=part(parts.test),
            taught=parts,
            general=parts.general,
        )
    except InputError as error:
        raise RecipeError(str(error)) from None
    except DataError as error:
        raise DataError(f"classes: {error}") from None


def _positions(root: SampleSet, part: SampleSet) -> torch.Tensor:
    place = torch.full((int(root.index.max()) + 1,), -1, dtype=torch.int64)
    place[root.index] = torch.arange(len(root))
    return place[part.index]
