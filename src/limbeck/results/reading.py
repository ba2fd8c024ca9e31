"""What models say of test texts: what they expect as the next token, and how each token surprises them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from limbeck.batch import UNLABELLED, Batch
from limbeck.carry import Carry, state_axis
from limbeck.data import SampleSet
from limbeck.data.sources import one_pass
from limbeck.evaluation.fidelity import fidelity
from limbeck.networks import evaluating
from limbeck.outputs import run_model

__all__ = ["NextToken", "Passage", "ReadTexts", "read_texts", "shown_token", "unsure_and_others"]

_PASSAGES = 6
_LONGEST = 60  # tokens of a passage
_CONTEXT = 24  # tokens before a place
_NEXT = 6  # places whose next tokens are shown
_COMPARED = 20_000  # tokens on which students are compared with their teacher
_BATCH = 16


@dataclass(frozen=True)
class NextToken:
    """A place in a text: what stands before it, the token that follows, and each model's logits (V,) by role."""

    context: str
    truth: str
    number: int
    logits: Mapping[str, Tensor]


@dataclass(frozen=True)
class Passage:
    """A piece of text, token by token.  losses: of each token in nats, by role.  context: what stands before it."""

    tokens: tuple[str, ...]
    losses: Mapping[str, tuple[float, ...]]

    def read_by(self, role: str) -> list[tuple[str, float]]:
        """Return each token with its loss by a model."""
        return list(zip(self.tokens, self.losses[role], strict=True))

    def mean(self, role: str) -> float:
        """Return the mean loss of a model in nats a token."""
        return fmean(self.losses[role])


@dataclass(frozen=True)
class ReadTexts:
    """What the models of the first seed say of some test texts.

    passages, places: for the page.  near: agreement with the teacher and KL in nats, by role of a student.
    compared: on how many tokens.
    """

    passages: tuple[Passage, ...]
    places: tuple[NextToken, ...]
    near: Mapping[str, tuple[float, float]]
    compared: int


@torch.no_grad()
def read_texts(networks: Mapping[str, nn.Module], samples: SampleSet, device: torch.device) -> ReadTexts:
    """Let models read test texts.

    networks: by role.  samples: of the task tokens.  device: where the networks are.
    """
    carries = {role: (Carry(), state_axis(network)) for role, network in networks.items()}
    passages: list[Passage] = []
    places: list[NextToken] = []
    pairs: dict[str, list[tuple[int, float, float]]] = {role: [] for role in networks if role != "teacher"}
    compared = 0
    with ExitStack() as scope:
        for network in networks.values():
            scope.enter_context(evaluating(network))
        for number, batch in enumerate(one_pass(samples, _BATCH).epoch(0)):
            batch = batch.to(device)
            logits: dict[str, Tensor] = {}
            for role, network in networks.items():
                carry, axis = carries[role]
                state = carry.state(role, batch, axis)
                answer = run_model(network, batch.inputs, task=batch.task, role=role, state=state)
                carry.keep(role, batch, answer.state, axis)
                logits[role] = answer.logits.float()
            if batch.labels is None:
                break
            known = batch.labels != UNLABELLED
            if "teacher" in logits:
                for role, found in pairs.items():
                    each = fidelity(logits[role][known].cpu(), logits["teacher"][known].cpu())
                    found.append((int(known.sum()), each.agreement, each.kl))
            compared += int(known.sum())
            warm = number > 0 or batch.lanes is None  # where a state is carried, the first batch begins without one
            if warm and len(passages) < _PASSAGES:
                _note(batch, logits, samples, passages, places)
            if compared >= _COMPARED:
                break
    near = {role: _weighted(found) for role, found in pairs.items() if found}
    return ReadTexts(tuple(passages), _spread(places), near, compared)


def _weighted(found: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    total = sum(count for count, _, _ in found)
    return tuple(sum(row[0] * row[k] for row in found) / total for k in (1, 2))  # type: ignore[return-value]


def _note(
    batch: Batch, logits: Mapping[str, Tensor], samples: SampleSet, passages: list[Passage], places: list[NextToken]
) -> None:
    """Add passages and places of some rows of a batch, spread evenly."""
    labels = batch.labels
    if labels is None:
        return
    wanted = min(_PASSAGES - len(passages), len(labels))
    for row in torch.linspace(0, len(labels) - 1, wanted).long().tolist():
        at = (labels[row] != UNLABELLED).nonzero().squeeze(1)[:_LONGEST]
        if len(at) < 2:
            continue
        ids = labels[row][at]
        tokens = tuple(shown_token(samples, int(each)) for each in ids)
        losses = {
            role: tuple(nn.functional.cross_entropy(each[row][at], ids, reduction="none").tolist())
            for role, each in logits.items()
        }
        passages.append(Passage(tokens, losses))
        for place in range(1, len(at)):
            context = "".join(tokens[max(0, place - _CONTEXT) : place])
            each = {role: rows[row][at[place]].cpu() for role, rows in logits.items()}
            places.append(NextToken(context, tokens[place], int(ids[place]), each))


def _spread(places: Sequence[NextToken]) -> tuple[NextToken, ...]:
    """Return the places at which the teacher, or the first model, is least sure, and others for comparison."""
    if not places:
        return ()
    first = "teacher" if "teacher" in places[0].logits else next(iter(places[0].logits))
    logs = torch.stack([each.logits[first] for each in places]).log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    return tuple(places[number] for number, _ in unsure_and_others(entropy, _NEXT))


def shown_token(samples: SampleSet, number: int) -> str:
    """Return a token as text, with the space that it begins with or that words are joined by."""
    names = samples.class_names if len(samples.class_names) > number else samples.vocabulary
    tokenizer = samples.tokenizer
    if tokenizer is not None and number == tokenizer.special.eos:
        return "⏎ "
    if tokenizer is not None and tokenizer.kind == "library":
        return str(tokenizer.decode([number], special=True))
    if tokenizer is not None and tokenizer.kind == "characters":
        return str(tokenizer.names[number])
    return f"{names[number]} " if number < len(names) else f"{number} "


def unsure_and_others(entropy: Tensor, count: int = 8) -> list[tuple[int, bool]]:
    """Return which examples are shown, by their entropy (n,), and whether for it: the largest, and others spread out.

    >>> unsure_and_others(torch.tensor([0.1, 0.9, 0.2, 0.3]), 2)
    [(1, True), (3, False)]
    """
    order = entropy.argsort(descending=True, stable=True)
    unsure = order[: count // 2].tolist()
    others = order[torch.linspace(len(order) // 4, len(order) - 1, count - len(unsure)).long()].unique().tolist()
    return [(number, True) for number in unsure] + [(number, False) for number in others if number not in unsure]
