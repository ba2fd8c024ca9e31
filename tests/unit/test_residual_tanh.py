"""The network of residual tanh layers against a plain reference, and its cosines of unit vectors."""

import torch
from torch import nn
from torch.nn import functional as F

from limbeck import models
from limbeck.evaluation import parameters
from limbeck.models.layers import NormalisedLinear, UnitLength
from limbeck.outputs import run_model


def tanh_reference(model, x):
    for stage in (model.stage1, model.stage2):
        y = x @ stage.linear.weight.T
        norm = stage.norm
        y = (y - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias
        way = x if isinstance(stage.shortcut, nn.Identity) else x @ stage.shortcut.weight.T
        x = way + (torch.exp(2 * y) - 1) / (torch.exp(2 * y) + 1)
    angles = torch.zeros(len(x), len(model.fc.weight), dtype=x.dtype)
    for sample, features in enumerate(x):
        for label, vector in enumerate(model.fc.weight):
            angles[sample, label] = (features * vector).sum() / (features**2).sum().sqrt() / (vector**2).sum().sqrt()
    return angles


def test_residual_tanh_gives_scaled_cosines():
    model = models.residual_tanh((2, 3), 5, hidden=(6, 4), scale=10.0).double()
    model(torch.randn(32, 2, 3, dtype=torch.float64))
    model.eval()
    inputs = torch.randn(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        found = model(inputs)
        torch.testing.assert_close(found, 10 * tanh_reference(model, inputs.flatten(1)), rtol=1e-10, atol=1e-10)
    assert isinstance(model.stage1.shortcut, nn.Identity)
    assert isinstance(model.stage2.shortcut, nn.Linear)


def test_features_and_class_vectors_are_of_unit_length():
    model = models.residual_tanh(20, 7, hidden=(16, 16)).eval()
    outputs = run_model(model, torch.randn(9, 20), {"pool": "pool"})
    torch.testing.assert_close(outputs.features["pool"].norm(dim=1), torch.ones(9))
    torch.testing.assert_close(model.fc.class_vectors.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(outputs.logits, 16 * outputs.features["pool"] @ model.fc.class_vectors.T)
    assert isinstance(model.fc, nn.Linear)
    assert model.fc.bias is None


def test_the_length_of_class_weights_does_not_matter():
    layer = NormalisedLinear(6, 4, scale=3.0)
    features = torch.randn(5, 6)
    before = layer(features)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[0.1], [1.0], [7.0], [100.0]]))
    torch.testing.assert_close(layer(features), before)


def test_gradients_leave_the_length_of_class_weights_alone():
    layer = NormalisedLinear(6, 4, scale=3.0).double()
    features = torch.randn(5, 6, dtype=torch.float64)
    F.cross_entropy(layer(features), torch.tensor([0, 1, 2, 3, 0])).backward()
    along = (layer.weight.grad * layer.weight).sum(1)
    torch.testing.assert_close(along, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: F.normalize(x, dim=-1), features.requires_grad_())


def test_the_scale_is_kept_with_the_weights_and_learns_if_asked():
    fixed, learned = (models.residual_tanh(8, 3, scale=5.0, learn_scale=learn) for learn in (False, True))
    assert "fc.scale" in fixed.state_dict()
    assert parameters(learned) == parameters(fixed) + 1
    inputs, labels = torch.randn(16, 8), torch.arange(16) % 3
    F.cross_entropy(learned(inputs), labels).backward()
    assert float(learned.fc.scale.grad.abs()) > 0
    other = models.residual_tanh(8, 3, scale=9.0)
    other.load_state_dict(learned.state_dict())
    assert float(other.fc.scale) == 5.0


def test_a_feature_of_no_length_gives_no_nan():
    assert torch.isfinite(NormalisedLinear(3, 2, scale=4.0)(UnitLength()(torch.zeros(1, 3)))).all()
