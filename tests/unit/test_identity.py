"""What decides a result decides its digest: pairs of things that look alike and differ, and pairs that are the same."""

import copy
import functools
import logging
import subprocess
import sys
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.identity import content_digest, network_digests, weights_digest
from walk import over


def drawn(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(act: nn.Module | None = None, *, width: int = 8, seed: int = 0, bias: bool = True) -> nn.Sequential:
    return drawn(lambda: nn.Sequential(nn.Linear(3, width, bias), act or nn.ReLU(), nn.Linear(width, 4)), seed)


def int8(seed: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = drawn(lambda: nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.LSTM(3, 4)}), seed)
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear, nn.LSTM}, dtype=torch.qint8)


def changed(change: Callable[[Any], object], make: Callable[[], nn.Module] = mlp) -> nn.Module:
    net = make()
    change(net)
    return net


class Scaled(nn.Module):
    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.layer = drawn(lambda: nn.Linear(3, 4))
        vars(self).update(values)

    def forward(self, x):
        self.seen = x
        return self.layer(x)


def formed(body: str, **known: Any) -> nn.Module:
    """A network of a class that is the same in all but the body of its forward."""
    names = {"nn": nn, "torch": torch, **known}
    exec(f"class Net(nn.Module):\n    def forward(self, x):\n        {body}\n", names)
    return names["Net"]()


class Extra(nn.Linear):
    def __init__(self, extra: Any) -> None:
        super().__init__(3, 4)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Counting:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x):
        return x * self.by

    def times(self, x):
        return x * self.by

    @staticmethod
    def plain(x):
        return x


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by: float) -> None:
        self.by = by


def closing(by: Any) -> Callable[[Any], Any]:
    return lambda x: x * by


def buffered(value: float, *, persistent: bool) -> nn.Module:
    return changed(lambda net: net.register_buffer("table", torch.full((2,), value), persistent=persistent))


def hooked(by: float) -> nn.Module:
    return changed(lambda net: net[0].register_forward_hook(lambda m, i, o: o * by))


def normed(**keys: Any) -> nn.Module:
    return nn.BatchNorm1d(4, **keys)


def tied(yes: bool) -> nn.Module:
    net = nn.Sequential(drawn(lambda: nn.Linear(3, 3)), drawn(lambda: nn.Linear(3, 3)))
    if yes:
        net[1].weight = net[0].weight
    return net


def parametrised(by: float) -> nn.Module:
    net = mlp()
    torch.nn.utils.parametrize.register_parametrization(net[0], "weight", Scaled(by=by), unsafe=True)
    return net


def patched(by: float) -> nn.Module:
    net = mlp()
    net.forward = types.MethodType(lambda self, x: x * by, net)
    return net


def text(source: str) -> Any:
    return eval(source)  # noqa: S307 - a function by its text


def reading(helper: Any) -> Callable[[Any], Any]:
    known = {"helper": helper}
    exec("def read(x):\n    return helper(x)\n", known)
    return known["read"]


X = torch.arange(6.0).reshape(2, 3)
OTHER = {
    "weights": (lambda: mlp(seed=0), lambda: mlp(seed=1)),
    "one weight by the least": (mlp, lambda: changed(lambda n: n[0].bias.data[0].mul_(1 + 2**-23))),
    "activation": (mlp, lambda: mlp(nn.Tanh())),
    "slope": (lambda: mlp(nn.LeakyReLU(0.1)), lambda: mlp(nn.LeakyReLU(0.2))),
    "gelu": (lambda: mlp(nn.GELU()), lambda: mlp(nn.GELU("tanh"))),
    "dropout": (lambda: mlp(nn.Dropout(0.1)), lambda: mlp(nn.Dropout(0.2))),
    "momentum": (lambda: normed(momentum=0.1), lambda: normed(momentum=0.2)),
    "eps": (lambda: normed(eps=1e-5), lambda: normed(eps=1e-3)),
    "running statistics": (normed, lambda: changed(lambda n: n.running_mean.add_(1), normed)),
    "order": (
        lambda: nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh())),
        lambda: nn.Sequential(OrderedDict(b=nn.Tanh(), a=nn.ReLU())),
    ),
    "an attribute": (lambda: Scaled(scale=1.0), lambda: Scaled(scale=2.0)),
    "an attribute's type": (lambda: Scaled(scale=1.0), lambda: Scaled(scale=1)),
    "an attribute in a list": (lambda: Scaled(sizes=[1, {"a": 2}]), lambda: Scaled(sizes=[1, {"a": 3}])),
    "a tensor attribute": (lambda: Scaled(by=torch.ones(2)), lambda: Scaled(by=torch.zeros(2))),
    "a function attribute": (lambda: Scaled(act=torch.relu), lambda: Scaled(act=torch.tanh)),
    "a functional attribute": (lambda: Scaled(act=nn.functional.relu), lambda: Scaled(act=nn.functional.gelu)),
    "a lambda attribute": (lambda: Scaled(act=lambda x: 2 * x), lambda: Scaled(act=lambda x: 3 * x)),
    "an object attribute": (lambda: Scaled(act=Counting(1.0)), lambda: Scaled(act=Counting(2.0))),
    "a slotted attribute": (lambda: Scaled(act=Slotted(1.0)), lambda: Scaled(act=Slotted(2.0))),
    "forward": (lambda: formed("return x + 1"), lambda: formed("return x + 2")),
    "forward's operator": (lambda: formed("return x + 1"), lambda: formed("return x - 1")),
    "forward's method": (lambda: formed("return x.relu()"), lambda: formed("return x.tanh()")),
    "forward's global": (lambda: formed("return x * BY", BY=1.0), lambda: formed("return x * BY", BY=2.0)),
    "forward's function": (
        lambda: formed("return act(x)", act=lambda x: x.relu()),
        lambda: formed("return act(x)", act=lambda x: -x.abs()),
    ),
    "forward's inner function": (
        lambda: formed("return (lambda y: y + 1)(x)"),
        lambda: formed("return (lambda y: y + 2)(x)"),
    ),
    "a patched forward": (lambda: patched(1.0), lambda: patched(2.0)),
    "buffer": (lambda: buffered(1.0, persistent=True), lambda: buffered(2.0, persistent=True)),
    "buffer that is not kept": (lambda: buffered(1.0, persistent=False), lambda: buffered(2.0, persistent=False)),
    "no bias": (lambda: mlp(bias=True), lambda: mlp(bias=False)),
    "hook": (lambda: hooked(1.0), lambda: hooked(2.0)),
    "parametrisation": (lambda: parametrised(1.0), lambda: parametrised(2.0)),
    "tied": (lambda: tied(True), lambda: tied(False)),
    "extra state": (lambda: drawn(lambda: Extra(1)), lambda: drawn(lambda: Extra(2))),
    "quantised": (lambda: int8(0), lambda: int8(1)),
    "dtype": (mlp, lambda: mlp().double()),
    "complex": (
        lambda: drawn(lambda: nn.Linear(3, 4, dtype=torch.complex64)),
        lambda: drawn(lambda: nn.Linear(3, 4, dtype=torch.complex64), 1),
    ),
    "scripted constant": (
        lambda: torch.jit.trace(Doubled(2.0), X),
        lambda: torch.jit.trace(Doubled(3.0), X),
    ),
    "scripted attribute": (lambda: torch.jit.script(Doubled(2.0)), lambda: torch.jit.script(Doubled(3.0))),
    "graph": (lambda: torch.fx.symbolic_trace(Doubled(2.0)), lambda: torch.fx.symbolic_trace(Doubled(3.0))),
    "exported": (
        lambda: torch.export.export(Doubled(2.0), (X,)).module(),
        lambda: torch.export.export(Doubled(3.0), (X,)).module(),
    ),
    # functions
    "lambdas": (lambda: lambda x: x * 2, lambda: lambda x: x * 100),
    "closures": (lambda: closing(1), lambda: closing(2)),
    "closures over tensors": (lambda: closing(torch.ones(2)), lambda: closing(torch.zeros(2))),
    "closures over networks": (lambda: closing(mlp(seed=0)), lambda: closing(mlp(seed=1))),
    "partials": (lambda: functools.partial(torch.mul, other=1), lambda: functools.partial(torch.mul, other=2)),
    "partials' arguments": (lambda: functools.partial(max, 1), lambda: functools.partial(max, 2)),
    "partials' functions": (lambda: functools.partial(max, 1), lambda: functools.partial(min, 1)),
    "bound methods": (lambda: Counting(1.0).times, lambda: Counting(2.0).times),
    "methods of one object": (lambda: Counting(1.0).times, lambda: Counting(1.0).plain),
    "bound built-ins": (lambda: [1].index, lambda: [2].index),
    "callables": (lambda: Counting(1.0), lambda: Counting(2.0)),
    "defaults": (lambda: text("lambda x, y=1: x"), lambda: text("lambda x, y=2: x")),
    "defaults by name": (lambda: text("lambda x, *, y=1: x"), lambda: text("lambda x, *, y=2: x")),
    "constants": (lambda: text("lambda x: x in (1, 2)"), lambda: text("lambda x: x in (1, 2.0)")),
    "constant sets": (lambda: text("lambda x: x in {1, 2}"), lambda: text("lambda x: x in {1, 3}")),
    "names": (lambda: text("lambda x: x.a"), lambda: text("lambda x: x.b")),
    "globals": (lambda: reading(lambda x: x + 1), lambda: reading(lambda x: x + 2)),
    "cached": (lambda: functools.cache(lambda x: x + 1), lambda: functools.cache(lambda x: x + 2)),
    "wrapped": (
        lambda: torch.no_grad()(lambda x: x + 1),
        lambda: torch.no_grad()(lambda x: x + 2),
    ),
    "library functions": (lambda: torch.relu, lambda: torch.tanh),
    "tensors' methods": (lambda: torch.Tensor.relu, lambda: torch.Tensor.tanh),
    # values
    "sparse": (lambda: torch.eye(3).to_sparse(), lambda: torch.eye(3).mul(2).to_sparse()),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), lambda: torch.eye(3).flip(0).to_sparse_csr()),
    "quantised tensors": (
        lambda: torch.quantize_per_tensor(X, 0.5, 0, torch.qint8),
        lambda: torch.quantize_per_tensor(X * 2, 1.0, 0, torch.qint8),
    ),
    "shapes": (lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2)),
    "conjugates": (lambda: torch.tensor([1 + 1j]), lambda: torch.tensor([1 + 1j]).conj()),
    "arrays": (lambda: np.arange(3), lambda: np.arange(3.0)),
    "zeros": (lambda: 0.0, lambda: -0.0),
    "patterns": (lambda: __import__("re").compile("a"), lambda: __import__("re").compile("b")),
    "sets": (lambda: {1, 2}, lambda: {1, 3}),
    "deques": (lambda: __import__("collections").deque([1]), lambda: __import__("collections").deque([2])),
    "generators": (lambda: torch.Generator().manual_seed(0), lambda: torch.Generator().manual_seed(1)),
}


class Doubled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by
        self.layer = drawn(lambda: nn.Linear(3, 3))

    def forward(self, x):
        return self.layer(x) * self.by


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:Sparse CSR")
@over("name", OTHER)
def test_what_differs_has_another_digest(name):
    first, second = OTHER[name]
    assert content_digest(first()) == content_digest(first())
    assert content_digest(first()) != content_digest(second())


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


def compiled_beside_lightning(net: nn.Module) -> nn.Module:
    """Compile as Lightning does, which puts its own function in the place of torch.compile when it is imported."""
    wrapped = compiled(net)
    wrapped._compile_kwargs = {"backend": "eager"}
    assert vars(net)["_compile_kwargs"]  # the wrapper hands it on
    return wrapped


def looked_at(net: nn.Module) -> nn.Module:
    net(torch.ones(2, 3))
    return net


SAME = {
    "built again": (mlp, mlp),
    "copied": (mlp, lambda: copy.deepcopy(mlp())),
    "compiled": (mlp, lambda: compiled(mlp())),
    "compiled beside Lightning": (mlp, lambda: compiled_beside_lightning(mlp())),
    "parallel": (mlp, lambda: nn.DataParallel(mlp())),
    "a part compiled": (mlp, lambda: changed(lambda n: n.__setitem__(0, compiled(n[0])))),
    "key order": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "attributes' order": (lambda: Scaled(a=1, b=2), lambda: Scaled(b=2, a=1)),
    "layout": (lambda: torch.ones(2, 3, 4, 5), lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)),
    "after a call": (lambda: Scaled(seen=None), lambda: looked_at(Scaled(seen=None))),
    "a device": (lambda: Scaled(device=torch.device("cpu")), lambda: Scaled(device=torch.device("cuda", 1))),
    "a class written twice": (lambda: formed("return x + 1"), lambda: formed("return x + 1")),
    "int8": (lambda: int8(0), lambda: int8(0)),
    "a logger": (lambda: Scaled(log=logging.getLogger("a")), lambda: Scaled(log=logging.getLogger("a"))),
    "a lock": (lambda: Scaled(lock=threading.Lock()), lambda: Scaled(lock=threading.Lock())),
    "mode": (mlp, lambda: mlp().eval()),
    "gradients": (mlp, lambda: mlp().requires_grad_(False)),
    "recursive": (lambda: (lambda a: a.append(a) or a)([]), lambda: (lambda a: a.append(a) or a)([])),
}


@over("name", SAME)
def test_what_is_the_same_has_one_digest(name):
    first, second = SAME[name]
    assert content_digest(first()) == content_digest(second())
    if isinstance(first(), nn.Module):
        assert weights_digest(first()) == weights_digest(second())


def test_a_function_is_the_same_before_and_after_what_it_imports_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "loaded_late.py").write_text("from torch import nn\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("colorsys", "loaded_late"):  # of a library, and a user's own
        monkeypatch.delitem(sys.modules, name, raising=False)
        late = importing(name)
        before = content_digest(late)
        __import__(name)
        assert name in sys.modules
        assert content_digest(late) == before


def importing(name: str) -> Callable[[], Any]:
    known: dict[str, Any] = {}
    exec(f"def late():\n    import {name}\n    return {name}\n", known)
    return known["late"]


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_training_is_known_by_the_hooks_of_its_parameters(register):
    def scaled(by: float) -> str:
        net = mlp()
        getattr(net[0].weight, register)(lambda gradient: by * gradient)
        return network_digests(net, "student")["architecture"]

    assert scaled(2.0) == scaled(2.0) != scaled(3.0)
    assert scaled(2.0) != network_digests(mlp(), "student")["architecture"]


def test_a_training_is_known_by_what_is_trained_and_frozen_too():
    plain = network_digests(mlp(), "student")
    fixed = changed(lambda net: net[0].requires_grad_(False))
    frozen = changed(lambda net: net[0].eval())
    assert network_digests(fixed, "student")["architecture"] != plain["architecture"]
    assert network_digests(frozen, "student")["architecture"] != plain["architecture"]
    assert network_digests(mlp().eval(), "student") == plain  # which all of it is put back from
    assert network_digests(compiled(mlp()), "student") == plain
    assert network_digests(mlp(seed=1), "student")["architecture"] == plain["architecture"]
    assert network_digests(mlp(seed=1), "student")["weights"] != plain["weights"]


@pytest.mark.parametrize("make", [lambda: sys.stdout.buffer, lambda: (i for i in [1]), lambda: mlp().to("meta")])
def test_what_cannot_be_read_is_refused_by_its_place(make):
    with pytest.raises(InputError, match=r"student\.tools\[0\].*cannot be read.*train without"):
        network_digests(Scaled(tools=[make()]), "student", "train without a folder")


SCRIPT = """
import functools, sys, torch
sys.path.insert(0, {tests!r})
from test_identity import OTHER, SAME, content_digest
for table in (OTHER, SAME):
    for name, (first, _) in table.items():
        print(name, content_digest(first()), sep="\\t")
"""


@pytest.mark.slow
def test_digests_are_the_same_in_every_process():
    """Another hash seed orders sets anew; nothing of that may count."""
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    told = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert len(told[0]) == len(OTHER) + len(SAME)
    assert told[0] == told[1]
