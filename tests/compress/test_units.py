"""Networks without whole units answer as the network in which those units are 0."""

import pytest
import torch
from torch import nn

from limbeck.compress import Prune, Units, rebuilt, records_of
from limbeck.compress.pruning import unit_mask
from limbeck.errors import InputError, ModelError
from limbeck.models import builder


def silenced(model, path, norms=(), share=0.5):
    """Return a network in which the outputs of some units are 0: what the smaller network must answer as."""
    layer = model.get_submodule(path)
    gone = ~unit_mask(layer.weight, share)
    with torch.no_grad():
        for own in (path, *norms):
            module = model.get_submodule(own)
            for name in ("weight", "bias"):
                if getattr(module, name) is not None:
                    getattr(module, name)[gone] = 0.0
    return model


@pytest.mark.parametrize(
    ("kind", "shape", "path", "norms"),
    [
        ("mlp", (1, 8, 8), "stage1.linear", ()),
        ("cnn", (1, 8, 8), "stem.0", ("stem.1",)),
        ("resnet", (3, 16, 16), "stage2.0.conv1", ("stage2.0.norm1",)),
    ],
)
def test_the_smaller_network_answers_as_one_in_which_the_units_are_0(kind, shape, path, norms):
    torch.manual_seed(0)
    model = builder(kind)(shape, 5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
    inputs = torch.randn(4, *shape)
    smaller, log = Units(sparsity=0.5, select=(path,)).apply(model)
    assert sum(each.numel() for each in smaller.parameters()) < sum(each.numel() for each in model.parameters())
    assert "units stay" in log.changed[path]
    norms = [norm for norm in norms if isinstance(dict(model.named_modules()).get(norm), nn.BatchNorm2d)]
    expected = silenced(model, path, norms)(inputs)
    assert torch.allclose(smaller(inputs), expected, atol=1e-5)
    again = rebuilt(builder(kind)(shape, 5), records_of(smaller)).eval()
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again(inputs), smaller(inputs))


def test_what_is_added_to_other_outputs_stays_and_the_log_says_why():
    _, log = Units(sparsity=0.25).apply(builder("resnet")((3, 16, 16), 5))
    assert all(path.endswith("conv1") or "reads fewer" in what for path, what in log.changed.items())
    assert log.kept["fc"] == "its outputs are the answer"
    assert "go into add" in log.kept["stem.0"]


def test_maps_that_are_flattened_lose_all_their_places():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4))
    inputs = torch.randn(2, 3, 8, 8)
    smaller, _ = Units(sparsity=0.25).apply(model)
    assert smaller[4].in_features == 6 * 9
    assert torch.allclose(smaller(inputs), silenced(model, "0", share=0.25)(inputs), atol=1e-6)


@pytest.mark.parametrize(("kind", "path"), [("vit", "blocks.0.attn"), ("transformer", "layers.0.attention")])
def test_heads_leave_with_their_rows_and_columns(kind, path):
    torch.manual_seed(0)
    if kind == "vit":
        model = builder("vit")((3, 8, 8), 5, patch=4, width=16, depth=2, heads=4).eval()
        inputs = {"x": torch.randn(2, 3, 8, 8)}
    else:
        model = builder("transformer")((6,), 5, vocabulary=11, max_length=6, layers=2, width=16, heads=4).eval()
        inputs = {"input_ids": torch.randint(11, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    ask = (lambda net: net(inputs["x"])) if kind == "vit" else (lambda net: net(**inputs))
    logits = lambda net: getattr(ask(net), "logits", ask(net))  # noqa: E731
    smaller, log = Units(sparsity=0.5, of="heads").apply(model)
    assert log.changed[path] == "Attention: 2 of 4 heads stay"
    assert smaller.get_submodule(path).heads == 2
    after = "proj" if kind == "vit" else "output.dense"
    names = ["qkv"] if kind == "vit" else ["query", "key", "value"]
    for own, attention in model.named_modules():
        if isinstance(getattr(attention, "heads", None), int) and own in log.changed:
            copies = 3 if kind == "vit" else 1
            stacked = [attention.get_submodule(name).weight.reshape(copies, 4, 4, 16).transpose(0, 1).reshape(4, -1) for name in names]  # fmt: skip  # noqa: E501
            gone = ~unit_mask(torch.cat(stacked, 1), 0.5)
            with torch.no_grad():
                attention.get_submodule(after).weight[:, gone.repeat_interleave(4)] = 0.0
    assert torch.allclose(logits(smaller), logits(model), atol=1e-6)


def test_layers_that_cannot_be_followed_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, inputs):
            hidden = self.first(inputs)
            return self.second(hidden.relu() if hidden.sum() > 0 else hidden)

    with pytest.raises(ModelError, match=r"units: the layers cannot be followed .* followers: {'fc1': 'fc2'}"):
        Units().apply(Odd())
    smaller, _ = Units(followers={"first": "second"}).apply(Odd())
    assert smaller.second.in_features == 4
    with pytest.raises(InputError, match="followers: there is no layer 'secnd'; did you mean 'second'"):
        Units(followers={"first": "secnd"}).apply(Odd())
    masked, _ = Prune(skip=()).apply(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)))
    with pytest.raises(InputError, match="leaves no layer that units changes"):
        Units().apply(masked)
