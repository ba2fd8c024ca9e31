"""Sequence-level distillation: the student learns from the sequences that the teacher generates."""

import copy
from collections import abc
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.generation import sentence_bleu, sequence_figures
from limbeck.own import cache_folder
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.tasks import TOKENS, UNLABELLED
from limbeck.teacher import Teacher
from limbeck.training import Training
from limbeck.training.generated import BeamSettings, Candidates, generate_or_read

__all__ = ["CARD", "Sequence", "nearest_to_gold"]

CARD = Card(
    name="sequence",
    summary="the student learns from the sequences that the teacher's beam search finds, in stages",
    authors="Yoon Kim, Alexander M. Rush",
    year=2016,
    title="Sequence-Level Knowledge Distillation",
    source="https://arxiv.org/abs/1606.07947",
    formula="-log p(ŷ|s), ŷ ≈ argmax q_T(y|s); nearest: -log p(ỹ|s), ỹ of the K best the nearest to y by BLEU",
)

Stage = Literal["gold", "best", "nearest"]
_LABELS = {
    "gold": "the targets of the data",
    "best": "the teacher's best",
    "nearest": "the teacher's nearest to the data",
}


def nearest_to_gold(
    candidates: abc.Sequence[abc.Sequence[abc.Sequence[int]]], gold: abc.Sequence[abc.Sequence[int]]
) -> list[int]:
    """Return which of the candidates of each sample has the highest smoothed BLEU with its target.

    Of equal ones the first, which the teacher finds the most probable.

    >>> nearest_to_gold([[[1, 2, 3], [1, 2, 4]]], [[1, 2, 4]])
    [1]
    """
    chosen = []
    for each, target in zip(candidates, gold, strict=True):
        scores = [sentence_bleu(candidate, target) for candidate in each]
        chosen.append(scores.index(max(scores)))
    return chosen


@dataclass(frozen=True)
class Sequence(Scheme):
    """The student learns by the recipe's method from targets that the teacher generated, stage after stage.

    The teacher's K best sequences of each source are searched once and kept in the cache, with a manifest, for all
    rows and seeds that ask the same teacher.  With method `hard` this is sequence-level distillation; with `kd` at
    temperature 1, word level on generated targets.  [gold, nearest] is sequence-level interpolation.

    Attributes:
        stages: what the student learns from, one behind the other, each from the student before: "gold", the targets of
            the data; "best", the teacher's most probable sequence; "nearest", that one of its K best which has the
            highest smoothed BLEU with the target of the data.
        beam: K, how many sequences the beam search keeps.
        length_penalty: a of ((5 + length)/6)^a, by which log-probabilities are divided; 0 for none.
        length: the largest number of generated tokens; None for that of the set's longest text.
        later_epochs: epochs of each stage after the first.
        later_rate: learning rate of the stages after the first; None for a tenth of the recipe's.  Warmup and
            milestones keep their share of the epochs.
    """

    stages: tuple[Stage, ...] = ("best",)
    beam: int = 5
    length_penalty: float = 0.0
    length: int | None = None
    later_epochs: int = 5
    later_rate: float | None = None

    any_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("stages: found none; expected some of: gold, best, nearest")
        for stage in self.stages:
            checks.choice("stages", stage, tuple(_LABELS))
        if set(self.stages) == {"gold"}:
            raise InputError("stages: found gold alone, for which the teacher generates nothing; add best or nearest")
        checks.at_least("later_epochs", self.later_epochs, 1)
        if self.later_rate is not None:
            checks.positive("later_rate", self.later_rate)
        self._settings  # noqa: B018 - checks the keys of the search

    @property
    def _settings(self) -> BeamSettings:
        return BeamSettings(self.beam, self.length_penalty, self.length)

    def roles(self) -> abc.Mapping[str, str]:
        """Return the students of the stages before the last."""
        return {
            f"stage_{number}": f"student on {_LABELS[stage]}" for number, stage in enumerate(self.stages[:-1], start=1)
        }

    def check(self, builder: Builder) -> str | None:
        """Refuse data without targets that can be generated, and a teacher that is no network."""
        samples = builder.parts.transfer
        if samples.task is not TOKENS or not hasattr(samples, "with_targets"):
            return "name: sequence needs pairs of a source and a target; use data of kind seq2seq"
        if builder.teacher_source not in ("trained", "file") or builder.teachers != 1:
            return "name: sequence needs one network for a teacher, which generates; use one"
        if builder.inspected.taps("teacher"):
            return "name: sequence has no teacher features, but the method reads some; use hard or kd"
        return None

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of the stages; generated targets are as many as those of the data."""
        samples = builder.parts.transfer
        planned = []
        for number, (role, label) in enumerate([*self.roles().items(), ("distilled", "student distilled")]):
            distiller = Distiller(self.build(role, builder), teacher, builder.objective())
            planned.append(Planned(label, distiller, samples, self._training(builder.training, number)))
        return planned

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train stage after stage."""
        units = [*self.roles(), "distilled"]
        context.require(units)
        transfer, held_out = context.parts.transfer, context.parts.held_out
        found = self._search(context, transfer, "transfer set")
        judged = None if held_out is None else self._search(context, held_out, "held-out part")
        models: dict[str, nn.Module] = {}
        student = context.student()
        for number, (stage, unit) in enumerate(zip(self.stages, units, strict=True)):
            teacher = context.teacher() if context.needs_teacher else None
            result = context.fit(
                unit,
                Distiller(student, teacher, context.objective()),
                _targets(transfer, found, stage),
                training=self._training(context.training, number),
                held_out=None if held_out is None or judged is None else _targets(held_out, judged, stage),
            )
            models[unit] = result.student
            student = copy.deepcopy(result.student)  # the next stage trains in place
        return models

    def figures(self, models: abc.Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return what each model generates for the test sources, by role, with one beam and with all."""
        beams = sorted({1, self.beam})
        return {
            role: sequence_figures(model, samples, beams=beams, length=self.length) for role, model in models.items()
        }

    def notes(self, figures: abc.Sequence[abc.Mapping[str, Any]]) -> list[str]:
        """Say how often teacher and students find the target, and how sure they are of what they find."""
        lines = []
        for role, label in (("teacher", "the teacher"), ("alone", "the student alone"), ("distilled", "the student")):
            found = [each[role] for each in figures if role in each]
            if not found:
                continue
            parts = []
            for beam in sorted({1, self.beam}):
                how = "greedy" if beam == 1 else f"with {beam} beams"
                exact, words, sure = (
                    100 * fmean(each[f"beam_{beam}"][name] for each in found)
                    for name in ("exact_match", "word_accuracy", "probability")
                )
                parts.append(f"{how} {exact:.1f} % of targets, {words:.1f} % of words, mean probability {sure:.1f} %")
            lines.append(f"Generated by {label}: {'; '.join(parts)}.")
        return lines

    def _search(self, context: Context, samples: SampleSet, part: str) -> Candidates:
        teacher = context.teacher_model
        for _ in range(self.beam):  # each beam is an answer of its own
            context.count_answers(f"targets of the {part}", teacher, samples)
        device = next((each.device for each in teacher.parameters()), torch.device("cpu"))
        return generate_or_read(
            teacher, samples, self._settings, root=context.cache or cache_folder(), device=device, say=context.say
        )

    def _training(self, training: Training, number: int) -> Training:
        """Return the settings of a stage."""
        if number == 0:
            return training
        return training.continued(self.later_epochs, self.later_rate)


def _targets(samples: Any, found: Candidates, stage: Stage) -> SampleSet:
    if stage == "gold":
        return samples  # type: ignore[no-any-return]
    chosen = [0] * len(found) if stage == "best" else nearest_to_gold(found, _gold(samples))
    rows = [each[place] for each, place in zip(found, chosen, strict=True)]
    return samples.with_targets(rows, stage)  # type: ignore[no-any-return]


def _gold(samples: SampleSet) -> list[list[int]]:
    rows: list[list[int]] = []
    for positions in torch.arange(len(samples)).split(1000):
        labels = samples.batch(positions, augment=None, seed=0, view=0).labels
        if labels is not None:
            rows += [[token for token in row if token != UNLABELLED] for row in labels.tolist()]
    return rows
