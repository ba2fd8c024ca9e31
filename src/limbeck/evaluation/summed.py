"""Figures of tasks whose answers are too many to be held: they are added up batch by batch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.batch import UNLABELLED
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.evaluation.fidelity import Nearness, fidelity
from limbeck.evaluation.figure import NO_LABELS, NO_NUMBERS, Figure, Figures, Metrics, summed_nll
from limbeck.evaluation.ranking import RankedItems
from limbeck.losses import cross_entropy, positives_log_loss
from limbeck.losses.reduction import compute_dtype
from limbeck.tasks import DENSE, FIRST_ITEMS, RANKING, TOKENS

__all__ = ["ItemFigures", "PlaceFigures", "Places", "TokenFigures", "perplexity"]

_FIRST_TOKENS = 3


class PlaceFigures(Figures):
    """Figures of places, such as pixels."""

    task = DENSE
    errors = "wrong places"
    by_example = False
    accuracy = "accuracy of places"
    unit = "places of test examples"
    nll = "NLL: mean negative log-likelihood in nats of a place."
    more = (Figure("miou", "mean intersection over union", "{:.4f}"),)

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return Places.of(logits, labels).metrics()

    def part(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        found = Places.of(logits, labels)
        return found.confusion[None], torch.tensor([found.nll], dtype=torch.float64)

    def total(self, parts: Iterable[tuple[Tensor, ...]]) -> Metrics:
        first, *rest = (
            Places(confusion, nll)
            for confusions, nlls in parts
            for confusion, nll in zip(confusions, nlls.tolist(), strict=True)
        )
        return sum(rest, start=first).metrics()


class ItemFigures(Figures):
    """Figures of items that are ranked for users."""

    task = RANKING
    errors = "users without a hit in the top 10"
    accuracy = "recall@10"
    unit = "test users"
    nll = "NLL: log loss in nats, its mean over the items to be found plus three times that over the others."
    more = (Figure("mrr", "mean reciprocal rank", "{:.4f}"), Figure("ndcg", "NDCG@10", "{:.4f}"))
    near = (
        Figure("agreement", "items of the teacher's top 10 among the student's", ""),
        Figure("kl", "KL(teacher ‖ student) of the softmax over the items, nats", "{:.4f}"),
    )

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return self.measure_batches([(logits, labels)])

    def part(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        positives, known = self.task.positives(labels), self.task.known(labels)
        items = RankedItems.of(logits, positives, known)
        hits = (items.found(FIRST_ITEMS).any(1)).sum().double()
        nll = positives_log_loss(logits, positives, known=known, reduction="sum").double()
        figures = (items.recall(FIRST_ITEMS), items.reciprocal_ranks(), items.ndcg(FIRST_ITEMS))
        sums = [torch.tensor(float(len(items.ranks))), hits, nll, *(each.sum() for each in figures)]
        return (torch.stack([each.double().cpu() for each in sums])[None],)

    def total(self, parts: Iterable[tuple[Tensor, ...]]) -> Metrics:
        totals = torch.zeros(6, dtype=torch.float64)
        for (rows,) in parts:
            for row in rows:
                totals += row
        examples = int(totals[0])
        if not examples:
            raise DataError(NO_LABELS)
        hits, nll, recall, mrr, ndcg = totals[1:].tolist()
        if math.isnan(nll):
            raise InputError(NO_NUMBERS.format("logits"))
        more = {"mrr": mrr / examples, "ndcg": ndcg / examples}
        return Metrics(examples, examples - int(hits), recall / examples, nll / examples, more)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        items = RankedItems.of(logits, self.task.positives(labels), self.task.known(labels))
        return items.found(FIRST_ITEMS).any(1)

    def nearness(self, student: Tensor, teacher: Tensor) -> Nearness:
        own, other = self.task.predictions(student), self.task.predictions(teacher)
        shared = (own.unsqueeze(-1) == other.unsqueeze(-2)).any(-1)
        return Nearness(agreement=float(shared.double().mean()), kl=fidelity(student, teacher).kl)

    def constant_accuracy(self, labels: Tensor) -> float:
        """Return the recall@10 of the items that most samples are to be given, the same for all."""
        positives = self.task.positives(labels)
        there = positives != UNLABELLED
        if not bool(there.any()):
            return 0.0
        counts = torch.bincount(positives[there])
        first = counts.argsort(stable=True, descending=True)[:FIRST_ITEMS]
        found = (torch.isin(positives, first) & there).sum(1).double()
        wanted = there.sum(1)
        return float((found / wanted.clamp_min(1)).sum() / (wanted > 0).sum())

    def constant_text(self, constant: float) -> str:
        return f"the ten most frequent items for everyone give {self.accuracy_text(constant, 1)}"


class TokenFigures(Figures):
    """Figures of the tokens of texts, each counted alike."""

    task = TOKENS
    errors = "perplexity"
    pattern = "{:.2f}"
    counts = False
    by_example = False
    accuracy = "next tokens that are right"
    unit = "tokens"
    nll = "NLL: mean negative log-likelihood in nats of a token; the perplexity is its exponential."
    nll_is_errors = True
    more = (
        Figure("top3", "next tokens among the first three", ""),
        Figure("bits_per_byte", "bits a byte of text", "{:.4f}"),
    )
    near = (
        Figure("agreement", "next tokens as the teacher gives them", ""),
        Figure("kl", "KL(teacher ‖ student) of a token, nats", "{:.4f}"),
    )

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return self.measure_batches([(logits, labels)])

    def part(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        known = (labels != UNLABELLED).to(logits.device)
        rows, classes = logits[known], labels.to(logits.device)[known]
        if not len(rows):
            return (torch.zeros(1, 4, dtype=torch.float64),)
        nll = cross_entropy(compute_dtype(rows), classes, reduction="none").double().sum()
        ranks = _ranks(rows, classes)
        sums = [nll, (ranks == 0).sum(), (ranks < _FIRST_TOKENS).sum()]
        return (torch.stack([known.sum().double(), *(each.double() for each in sums)]).cpu()[None],)

    def total(self, parts: Iterable[tuple[Tensor, ...]]) -> Metrics:
        sums = torch.zeros(4, dtype=torch.float64)
        for (rows,) in parts:
            for row in rows:
                sums += row
        tokens, nll, right, top = int(sums[0]), *sums[1:].tolist()
        if not tokens:
            raise DataError(NO_LABELS)
        if math.isnan(nll):
            raise InputError(NO_NUMBERS.format("logits"))
        return Metrics(tokens, perplexity(nll / tokens), right / tokens, nll / tokens, {"top3": top / tokens})

    def of_set(self, metrics: Metrics, samples: SampleSet) -> Metrics:
        """Return the figures with bits per byte, where the set's tokenizer knows the bytes of its tokens."""
        known = samples.labels[samples.labels != UNLABELLED]
        sizes = getattr(samples.tokenizer, "token_bytes", None)
        if sizes is None or len(known) != metrics.examples:
            return metrics
        count = int(torch.as_tensor(sizes, device=known.device)[known].sum())
        bits = float(metrics.nll) * metrics.examples / math.log(2)
        return replace(metrics, more={**metrics.more, "bits_per_byte": bits / count}) if count else metrics

    def counted(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[labels.to(logits.device) != UNLABELLED]

    def constant_text(self, constant: float) -> str:
        return f"the most frequent token alone is right for {self.accuracy_text(constant, 1)}"


def perplexity(nll: float) -> float:
    """Return exp(nll), infinity where that is too large for a float.

    >>> perplexity(0.0), perplexity(1000.0)
    (1.0, inf)
    """
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before each label, (n,); of equal logits the lower number comes first."""
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(1)


@dataclass(frozen=True)
class Places:
    """What is counted of places, such as pixels, so that a set can be measured batch by batch.

    confusion: (K, K) int64, a row for each label.  nll: sum over the labelled places.
    """

    confusion: Tensor
    nll: float

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "Places":
        """Count logits (n, ..., K) against labels (n, ...)."""
        labels = labels.to(logits.device)
        nll = summed_nll(logits, labels)
        known, classes = labels != UNLABELLED, logits.shape[-1]
        cells = labels[known] * classes + logits.argmax(-1)[known]
        return cls(torch.bincount(cells, minlength=classes * classes).view(classes, classes), nll)

    def __add__(self, other: "Places") -> "Places":
        return Places(self.confusion + other.confusion, self.nll + other.nll)

    def metrics(self) -> Metrics:
        """Return the figures of all that was counted."""
        examples = int(self.confusion.sum())
        if not examples:
            raise DataError(NO_LABELS)
        right = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        overlap = right[union > 0].double() / union[union > 0].double()
        errors = examples - int(right.sum())
        more = {"miou": float(overlap.mean())}
        return Metrics(examples, errors, 1.0 - errors / examples, self.nll / examples, more)
