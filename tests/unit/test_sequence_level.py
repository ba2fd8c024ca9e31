"""Word and sequence level: what the losses are, by enumeration in float64."""

import itertools
import math

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.generation import beam_search, generated_batch
from limbeck.losses import CROSS_ENTROPY
from limbeck.outputs import Outputs
from limbeck.tasks import TOKENS

VOCABULARY, LENGTH, END = 3, 3, 2


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.embedding = nn.Embedding(4, 5)
            self.lstm = nn.LSTM(5, 5, batch_first=True)
            self.head = nn.Linear(5, VOCABULARY)
        self.double()

    def forward(self, input_ids, attention_mask=None):
        return 3 * self.head(self.lstm(self.embedding(input_ids))[0])


class Certain(nn.Module):
    """A teacher that is sure of one next token for each prefix."""

    def forward(self, input_ids):
        count = torch.arange(input_ids.shape[1])
        sure = (input_ids.cumsum(1) * 2 + count + 1) % VOCABULARY
        return torch.zeros(*input_ids.shape, VOCABULARY, dtype=torch.float64).masked_fill(
            nn.functional.one_hot(sure, VOCABULARY) == 0, -torch.inf
        )


def log_prob(model, prompt, tokens):
    logits = model(torch.tensor([[prompt, *tokens[:-1]]])).log_softmax(-1)[0]
    return sum(logits[place, token] for place, token in enumerate(tokens))


def sequences():
    """All sequences of three tokens that an end token ends early."""
    for tokens in itertools.product(range(VOCABULARY), repeat=LENGTH):
        stop = tokens.index(END) + 1 if END in tokens else LENGTH
        if not any(tokens[stop:]):
            yield tokens[:stop]


@pytest.mark.parametrize("prompt", [0, 1, 3])
def test_the_loss_on_the_best_sequence_of_a_sure_teacher_is_the_divergence_of_sequences(prompt):
    teacher, student = Certain(), Student()
    inputs = torch.tensor([[prompt]])
    found = beam_search(teacher, inputs, length=LENGTH, ends=[END], beam=3)
    made = generated_batch(Batch.of(inputs), found.best(), by="teacher")
    logits = student(**made.inputs)
    loss = methods.hard()({"student": Outputs(logits)}, made)
    total = torch.zeros((), dtype=torch.float64)
    mass = 0.0
    for tokens in sequences():
        own, other = log_prob(teacher, prompt, tokens), log_prob(student, prompt, tokens)
        mass += float(other.detach().exp())
        if own > -math.inf:
            total = total + own.exp() * (own - other)
    assert mass == pytest.approx(1.0, abs=1e-12)
    assert float(loss.total.detach()) * int(found.lengths) == pytest.approx(float(total.detach()), abs=1e-12)
    weights = list(student.parameters())
    for one, other in zip(
        torch.autograd.grad(loss.total * int(found.lengths), weights), torch.autograd.grad(total, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_word_level_is_kd_at_temperature_one_on_tokens():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (3, 4), generator=generator)
    mask = torch.arange(4) < torch.tensor([[4], [1], [3]])
    labels = labels.masked_fill(~mask, -100)
    batch = Batch.of(torch.zeros(3, 4, dtype=torch.int64), labels, mask=mask, task=TOKENS)
    outputs = {"student": Outputs(student), "teacher": Outputs(teacher)}
    p, log_q = teacher.softmax(-1), student.log_softmax(-1)
    words = nll = entropy = 0.0
    for row, place in itertools.product(range(3), range(4)):
        if mask[row, place]:
            words -= sum(p[row, place, k] * log_q[row, place, k] for k in range(5))
            entropy -= sum(p[row, place, k] * p[row, place, k].log() for k in range(5))
            nll -= log_q[row, place, labels[row, place]]
    count = int(mask.sum())
    words, nll = words.detach(), nll.detach()
    literal = methods.kd(temperature=1.0, alpha=0.5, divergence=CROSS_ENTROPY)(outputs, batch).total.detach()
    assert float(literal) == pytest.approx(float((0.5 * nll + 0.5 * words) / count), abs=1e-12)
    divergence = methods.kd(temperature=1.0, alpha=0.5)(outputs, batch).total.detach()
    assert float(divergence) == pytest.approx(float((0.5 * nll + 0.5 * (words - entropy)) / count), abs=1e-12)
    only = methods.kd(temperature=1.0, alpha=0.0)(outputs, batch).total
    (gradient,) = torch.autograd.grad(only, student)
    expected = (student.softmax(-1) - p).detach() * mask[..., None] / count
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
