"""A task that limbeck does not have is a class of its labels and a class of its figures; nothing else knows of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import Figure, Figures, Metrics, constant_accuracy, evaluate, figures_of, measure, predict
from limbeck.evaluation import figures as figures_module
from limbeck.report.views import View, view_of
from limbeck.tasks import TASKS, UNLABELLED, Need, Task
from limbeck.teachers import ModelTeacher
from limbeck.training import fit

WORDS = 7


class Tokens(Task):
    """The next word at each place of a text."""

    name = "next_words"
    labels = "the next word at each place"
    shape = "(n, length)"
    dims = (2,)
    meets = frozenset({Need.CLASSES, Need.SEVERAL_CLASSES, Need.ONE_CLASS, Need.EACH_LABELLED})


class TokenFigures(Figures):
    task = Tokens()
    errors = "perplexity"
    pattern = "{:.2f}"
    counts = False
    by_example = False
    accuracy = "accuracy of tokens"
    unit = "tokens"
    more = (Figure("bits", "bits a token", "{:.4f}"),)

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return self.measure_batches([(logits, labels)])

    def measure_batches(self, batches) -> Metrics:
        tokens, right, loss = 0, 0, 0.0
        for logits, labels in batches:
            known = labels != UNLABELLED
            tokens += int(known.sum())
            right += int((self.task.predictions(logits) == labels)[known].sum())
            loss += float(nn.functional.cross_entropy(logits[known].double(), labels[known], reduction="sum"))
        nll = loss / tokens
        return Metrics(tokens, math.exp(nll), right / tokens, nll, {"bits": nll / math.log(2)})


@pytest.fixture
def samples(monkeypatch):
    monkeypatch.setattr(figures_module, "FIGURES", {**figures_module.FIGURES, "next_words": TokenFigures()})
    texts = torch.randint(WORDS, (30, 6), generator=torch.manual_seed(0))
    labels = (texts + 1) % WORDS
    labels[0, 0] = UNLABELLED
    return TensorSet.of(texts, labels, classes=WORDS, task=Tokens())


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(WORDS, width), nn.Linear(width, WORDS))


def test_a_new_task_is_distilled_and_measured_batch_by_batch(samples):
    student = network(4, 1)
    before = evaluate(student, samples)
    fit(Distiller(student, ModelTeacher(network(8, 2)), methods.kd(alpha=0.5)), samples, epochs=5, learning_rate=0.5)
    after = evaluate(student, samples, batch_size=7)
    whole = measure(predict(student, samples), samples.labels, samples.task)
    assert before.nll > after.nll
    assert after.examples == 30 * 6 - 1 == samples.labelled_count
    assert after.errors == pytest.approx(math.exp(whole.nll))
    assert after.more["bits"] == pytest.approx(whole.nll / math.log(2))
    assert constant_accuracy(samples.labels, samples.task) == pytest.approx(
        samples.labels[samples.labels >= 0].bincount().max().item() / (30 * 6 - 1)
    )


def test_a_new_task_is_refused_shown_and_named_by_what_it_says_of_itself(samples):
    with pytest.raises(InputError, match=r"^classes: samples are chosen by one label .* \(task next_words\)"):
        samples.without_classes([1])
    assert type(view_of(samples.task)) is View
    figures = figures_of(samples.task)
    said = "the student's perplexity is 3.14 when distilled, 4.00 when trained alone; the teacher's is 2.00"
    assert figures.result(179, 3.14159, 4.0, 2.0) == f"on the test set {said}"
    assert (figures.better, figures.worse, figures.accuracy_text(0.5)) == ("lower", "higher", "50.00 %")
    near = figures.nearness(*(predict(network(4, seed), samples) for seed in (1, 1)))
    assert (near.agreement, near.distance) == (1.0, None)
    assert near.kl == pytest.approx(0.0, abs=1e-12)


def test_a_task_without_figures_is_refused_in_one_line(samples, monkeypatch):
    monkeypatch.setattr(figures_module, "FIGURES", {})
    with pytest.raises(InputError, match=r"^task next_words: it has no figures; add a class"):
        evaluate(network(4, 1), replace(samples))


def test_every_task_has_figures_of_its_own():
    assert {name: figures.task for name, figures in figures_module.FIGURES.items()} == dict(TASKS)
