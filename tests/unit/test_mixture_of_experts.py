"""A mixture of experts against its formula in float64, and what its gradient gives to each expert."""

import math

import pytest
import torch
from torch import nn

from limbeck.config import Recipe
from limbeck.errors import InputError, RecipeError
from limbeck.models import cnn, mixture, mlp
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


def test_a_model_of_a_recipe_is_its_experts_one_after_another_and_a_gate():
    torch.manual_seed(3)
    built = mixture((1, 6, 6), 4, expert={"kind": "cnn", "channels": [2, 3]}, experts=3)
    torch.manual_seed(3)
    experts = [cnn((1, 6, 6), 4, channels=(2, 3)) for _ in range(3)]
    same = MixtureOfExperts(experts, inputs=36)
    assert built.state_dict().keys() == same.state_dict().keys()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in built.state_dict().items())
    torch.manual_seed(3)
    of_row = mixture(6, 4)
    torch.manual_seed(3)
    assert torch.equal(of_row.experts[0].stage1.linear.weight, mlp(6, 4).stage1.linear.weight)
    assert (len(of_row.experts), of_row.gate.in_features) == (4, 6)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"expert": {"kind": "mlpp"}}, "student.model.expert.kind: found 'mlpp'; did you mean 'mlp'?"),
        ({"expert": {"kind": "mixture"}}, "student.model.expert.kind: found 'mixture'; one of: "),
        ({"expert": {"kind": "mlp", "hiden": [3]}}, "student.model.expert.hiden: there is no such key; did you mean"),
        ({"expert": {"classes": 3}}, "student.model.expert.classes: there is no such key"),
        ({"expert": {"kind": "mlp", "hidden": [0]}}, "student.model.expert.hidden: found 0, expected"),
        ({"expert": 3}, "student.model.expert: found 3, expected"),
        ({"experts": 0}, "student.model.experts: found 0, expected a whole number from 1 to 1000"),
        ({"experts": 10**9}, "student.model.experts: found 1000000000, expected a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_key_is_one_line(keys, line):
    recipe = {"name": "a", "data": {"kind": "digits"}, "student": {"model": {"kind": "mixture", **keys}}}
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(recipe).student.build((1, 8, 8), 10)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
