"""Reading logits and features of any model, and leaving the model as it was."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, Tap, canonical_path, capture, run_model
from walk import over


class Net(nn.Module):
    """Two layers, a block inside, and one module that the forward pass leaves out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 5)
        self.block = nn.Sequential(OrderedDict(act=nn.ReLU(), mix=nn.Linear(5, 5)))
        self.head = nn.Linear(5, 2)
        self.unused = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


class Wrapper(nn.Module):
    """As DDP does: the model is its child `module`."""

    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, x):
        return self.module(x)


class Compiled(nn.Module):
    """As torch.compile does: the model is its child `_orig_mod`."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, x):
        return self._orig_mod(x)


class Answers(nn.Module):
    """A model that gives whatever `function` makes of its logits."""

    def __init__(self, function):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.function = function

    def forward(self, x):
        return self.function(self.head(x))


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


X = torch.randn(4, 3)


# -------------------------------------------------------------------------------------------------------------- capture


def test_capture_reads_the_output_of_each_module_that_it_is_asked_for():
    net = Net()
    with capture(net, {"first": "stem", "inner": "block.act", "last": "head"}) as features:
        logits = net(X)
    assert set(features) == {"first", "inner", "last"}
    torch.testing.assert_close(features["first"], net.stem(X))
    torch.testing.assert_close(features["inner"], net.stem(X).relu())
    torch.testing.assert_close(features["last"], logits)


def test_features_carry_the_gradient_of_the_model():
    net = Net()
    with capture(net, {"first": "stem"}) as features:
        net(X)
    features["first"].sum().backward()
    torch.testing.assert_close(net.stem.bias.grad, torch.full((5,), 4.0))


def test_each_forward_pass_fills_the_features_anew_and_the_last_call_of_a_module_counts():
    net = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), b=nn.ReLU()))
    net.c = net.b
    with capture(net, {"act": "b", "same": "c"}) as features:
        net(X)
        before = features["act"]
        net(X + 1)
    torch.testing.assert_close(features["act"], net(X + 1))
    assert not torch.equal(before, features["act"])
    twice = nn.Sequential(net.b, nn.Linear(3, 3), net.b)
    with capture(twice, {"act": "2"}) as features:
        assert torch.equal(twice(X), features["act"])


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        Compiled,
        lambda net: Wrapper(Compiled(net)),
        lambda net: Compiled(Wrapper(net)),
        lambda net: nn.DataParallel(net, device_ids=[]),
        pytest.param(
            lambda net: torch.compile(net, backend="eager"),
            marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")],  # its own
        ),
    ],
    ids=["module", "_orig_mod", "module._orig_mod", "_orig_mod.module", "DataParallel", "torch.compile"],
)
def test_a_path_is_the_same_under_a_wrapper(wrap):
    net = Net()
    wrapped = wrap(net)
    for path in ("block.mix", "module.block.mix", "_orig_mod.block.mix"):
        with capture(wrapped, {"mix": path}) as features:
            logits = wrapped(X)
        torch.testing.assert_close(features["mix"], net.block(net.stem(X)))
        torch.testing.assert_close(logits, net(X))


def test_a_path_is_the_same_where_a_part_is_wrapped():
    net = Net()
    net.block = Wrapper(net.block)
    with capture(net, {"block": "block", "mix": "block.mix"}) as features:
        net(X)
    assert torch.equal(features["block"], features["mix"])


def test_the_path_of_the_whole_model_is_empty():
    net = Wrapper(Net())
    with capture(net, {"all": ""}) as features:
        logits = net(X)
    assert torch.equal(features["all"], logits)


def test_a_path_that_fits_two_modules_is_refused_rather_than_guessed():
    net = Wrapper(nn.ReLU())
    net.head, net.module.head = nn.Linear(3, 2), nn.Linear(3, 2)
    with (
        pytest.raises(ModelError, match=r"feature 'x': 'head' may be '(module\.)?head' or '(module\.)?head'"),
        capture(net, {"x": "head"}),
    ):
        pass


@over(
    ("path", "canonical"),
    [
        ("layer1.0", "layer1.0"),
        ("module.layer1.0", "layer1.0"),
        ("_orig_mod.module.layer1", "layer1"),
        ("_fsdp_wrapped_module.layer1._fsdp_wrapped_module.0", "layer1.0"),
        ("layer1._checkpoint_wrapped_module.0", "layer1.0"),
        ("modules.layer1", "modules.layer1"),
        ("module", ""),
        ("", ""),
    ],
)
def test_a_canonical_path_has_no_wrappers(path, canonical):
    assert canonical_path(path) == canonical


def test_a_tap_may_read_the_input_of_a_module():
    net = Net()
    with capture(net, {"before": Tap("head", side="input"), "after": "block"}) as features:
        net(X)
    assert torch.equal(features["before"], features["after"])


def test_a_tap_may_derive_a_feature_from_what_it_reads():
    net = Net()
    with capture(net, {"mean": Tap("stem", lambda x: x.mean(-1)), "in": Tap("head", torch.sum, "input")}) as features:
        net(X)
    torch.testing.assert_close(features["mean"], net.stem(X).mean(-1))
    assert features["in"].shape == ()


def test_of_a_tuple_the_first_is_read_unless_a_function_says_otherwise():
    lstm = nn.LSTM(3, 5, batch_first=True)
    model = nn.Sequential(OrderedDict(lstm=lstm))
    x = torch.randn(2, 4, 3)
    with capture(model, {"out": "lstm", "cell": Tap("lstm", lambda answer: answer[1][1])}) as features:
        model(x)
    torch.testing.assert_close(features["out"], lstm(x)[0])
    torch.testing.assert_close(features["cell"], lstm(x)[1][1])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("blok.mix", "did you mean 'block.mix'?"),
        ("stems", "did you mean 'stem'?"),
        ("zzz", "one of: block, block.act, block.mix, head, stem, unused"),
    ],
)
def test_a_path_that_names_no_module_gets_the_nearest_that_exists(path, says):
    net = Net()
    with pytest.raises(ModelError) as caught, capture(net, {"good": "stem", "bad": path}):
        pass
    assert str(caught.value) == f"feature 'bad': the model has no module '{path}'; {says}"
    assert hooks(net) == 0


def test_a_module_that_was_not_called_is_an_error_and_not_a_missing_feature():
    net = Net()
    with pytest.raises(ModelError, match=r"feature 'x': module 'unused' was not called in the forward pass"):
        run_model(net, X, {"x": "unused"})
    with pytest.raises(ModelError, match="module 'unused' was not called"):
        run_model(net, X, {"x": Tap("unused", side="input")})
    assert hooks(net) == 0


@pytest.mark.parametrize("tap", ["lists", Tap("head", lambda x: [x])], ids=["module", "function"])
def test_a_module_or_function_that_gives_no_tensor_is_an_error_that_says_what_it_gave(tap):
    class Lists(nn.Module):
        def forward(self, x):
            return [x]

    net = Net()
    net.lists = Lists()
    net.head.register_forward_pre_hook(lambda module, inputs: net.lists(inputs[0])[0])
    with pytest.raises(ModelError, match=r"feature 'x': module '(lists|head)' gives list, expected a tensor"):
        run_model(net, X, {"x": tap})
    assert hooks(net) == 1  # its own


def test_a_module_called_with_keywords_only_has_no_input_to_read():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(input=x)

    with pytest.raises(ModelError, match=r"feature 'x': module 'head' was called with keywords only"):
        run_model(Keywords(), X, {"x": Tap("head", side="input")})
    assert run_model(Keywords(), X, {"x": "head"}).features["x"].shape == (4, 2)


def test_a_misspelt_side_is_refused():
    with pytest.raises(InputError, match=r"side of tap 'head': found 'inputs', expected one of: input, output"):
        Tap("head", side="inputs")


def test_hooks_are_gone_after_the_scope():
    net = Net()
    with capture(net, {"a": "stem", "b": "head"}):
        assert hooks(net) == 2
    assert hooks(net) == 0


def test_hooks_are_gone_after_an_exception_in_the_scope_or_in_the_model():
    net = Net()
    with pytest.raises(ZeroDivisionError), capture(net, {"a": "stem"}):
        raise ZeroDivisionError
    assert hooks(net) == 0
    with pytest.raises(
        ModelError, match=r"^model: its forward raised RuntimeError: .*; its input was float32 \(4, 99\)"
    ):
        run_model(net, torch.randn(4, 99), {"a": "stem"})
    assert hooks(net) == 0


def test_scopes_nest_without_disturbing_each_other():
    net = Net()
    with capture(net, {"x": "stem"}) as outer:
        with capture(net, {"x": "head"}) as inner:
            logits = net(X)
        assert hooks(net) == 1
        net(X)
    assert torch.equal(inner["x"], logits)
    torch.testing.assert_close(outer["x"], net.stem(X))
    assert hooks(net) == 0


def test_capture_changes_no_output():
    net = Net()
    expected = net(X)
    with capture(net, {"a": Tap("stem", torch.relu), "b": Tap("head", side="input")}):
        assert torch.equal(net(X), expected)


# ------------------------------------------------------------------------------------------------------------ run_model


@dataclass
class Named:
    logits: torch.Tensor
    loss: None = None


@over(
    "function",
    [
        lambda z: z,
        Outputs,
        lambda z: {"logits": z, "loss": None},
        lambda z: OrderedDict(loss=z.sum(), logits=z),
        lambda z: SimpleNamespace(logits=z),
        Named,
        lambda z: (z,),
        lambda z: (z, None),
    ],
    ids=["tensor", "Outputs", "dict", "OrderedDict", "namespace", "dataclass", "tuple of one", "tuple"],
)
@over("taps", [None, {}, {"x": "head"}], ids=["no taps", "empty taps", "a tap"])
def test_any_common_answer_of_a_model_becomes_outputs(function, taps):
    model = Answers(function)
    outputs = run_model(model, X, taps)
    assert isinstance(outputs, Outputs)
    torch.testing.assert_close(outputs.logits, model.head(X))
    assert set(outputs.features) == set(taps or {})


def test_the_second_of_a_tuple_is_the_state():
    state = torch.ones(2)
    assert run_model(Answers(lambda z: (z, state)), X).state is state
    assert run_model(Answers(lambda z: z), X).state is None


def test_features_heads_and_state_of_outputs_are_kept_beside_the_tapped():
    model = Answers(lambda z: Outputs(z, {"own": z + 1}, {"exit": z + 2}, "state"))
    outputs = run_model(model, X, {"tapped": "head"})
    assert set(outputs.features) == {"own", "tapped"}
    assert set(outputs.heads) == {"exit"}
    assert outputs.state == "state"


@over(
    ("function", "found"),
    [
        (lambda z: None, "NoneType"),
        (lambda z: [z], "list"),
        (lambda z: {"scores": z}, "dict"),
        (lambda z: {"logits": [1.0]}, "dict"),
        (lambda z: (None, z), "tuple"),
        (lambda z: (), "tuple"),
    ],
    ids=["nothing", "list", "another key", "logits of no tensor", "tuple", "empty tuple"],
)
def test_an_answer_without_logits_is_an_error_that_says_what_was_returned(function, found):
    with pytest.raises(ModelError, match=rf"the model returned {found}, expected a tensor of logits") as caught:
        run_model(Answers(function), X)
    assert "\n" not in str(caught.value)


def test_named_inputs_are_handed_over_as_keywords():
    class Two(nn.Module):
        def forward(self, ids, *, scale):
            return ids * scale

    outputs = run_model(Two(), {"scale": torch.tensor(2.0), "ids": torch.ones(1, 2)})
    assert torch.equal(outputs.logits, torch.full((1, 2), 2.0))


def test_detached_outputs_have_the_same_values_and_no_graph():
    z = torch.randn(2, 3, requires_grad=True) * 1.0
    outputs = Outputs(z, {"f": z + 1}, {"h": z + 2}, "state")
    cut = outputs.detach()
    for given, expected in ((cut.logits, z), (cut.features["f"], z + 1), (cut.heads["h"], z + 2)):
        assert torch.equal(given, expected)
        assert not given.requires_grad
    assert cut.state == "state"
    assert outputs.logits.requires_grad
