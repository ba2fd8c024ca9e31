"""A mixture of experts against its formula in float64, and what its gradient gives to each expert."""

import math

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.models.layers import MixtureOfExperts


def mixture_of(count=3, seed=0):
    torch.manual_seed(seed)
    experts = [nn.Sequential(nn.Flatten(), nn.Linear(6, 4)) for _ in range(count)]
    return MixtureOfExperts(experts, inputs=6).double()


def test_the_answer_is_the_gated_mean_of_the_experts_probabilities():
    mixture, inputs = mixture_of(), torch.randn(5, 2, 3, dtype=torch.float64)
    found = mixture(inputs)
    for row, sample in enumerate(inputs):
        scores = [math.exp(each) for each in mixture.gate(sample.flatten()).tolist()]
        expected = [0.0] * 4
        for expert, score in zip(mixture.experts, scores, strict=True):
            logits = [math.exp(each) for each in expert(sample[None])[0].tolist()]
            for label in range(4):
                expected[label] += score / sum(scores) * logits[label] / sum(logits)
        torch.testing.assert_close(found[row].exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_an_expert_learns_from_a_sample_by_its_posterior():
    mixture, inputs = mixture_of(), torch.randn(1, 2, 3, dtype=torch.float64)
    given = [expert(inputs).detach().requires_grad_() for expert in mixture.experts]
    mixture.experts = nn.ModuleList(Fixed(logits) for logits in given)
    (-mixture(inputs)[0, 2]).backward()
    joint = mixture.gate(inputs.flatten(1)).softmax(1)[0] * torch.stack([z.softmax(1)[0, 2] for z in given])
    label = torch.eye(4, dtype=torch.float64)[2]
    for share, logits in zip(joint / joint.sum(), given, strict=True):
        torch.testing.assert_close(logits.grad[0], (share * (logits.softmax(1)[0] - label)).detach())


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, inputs):
        return self.logits


def test_half_precision_is_mixed_in_single_and_far_logits_stay_finite():
    mixture = mixture_of().bfloat16()
    assert mixture(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert torch.isfinite(mixture_of()(1e4 * torch.randn(2, 6, dtype=torch.float64))).all()


def test_no_experts_are_refused():
    with pytest.raises(InputError, match="experts: found none, expected at least one network"):
        MixtureOfExperts([], inputs=3)
