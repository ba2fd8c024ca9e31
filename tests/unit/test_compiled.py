"""Compiled training: the same to rounding, resumed, saved under the same names, and refused where it cannot be."""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import limbeck as lb
from limbeck import methods
from limbeck.errors import InputError, ModelError, RunError
from limbeck.training import compiled as module
from limbeck.training.identity import identity_of

pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # on Python 3.13.0

DATA = lb.data.TensorSet.of(
    torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4, classes=4
)


@pytest.fixture
def traced(monkeypatch):
    """Trace and run eagerly what torch.compile would make code of, which takes no compiler and keeps every bit."""
    torch.compiler.reset()
    monkeypatch.setattr(module, "_OPTIONS", {"backend": "eager"})
    yield
    torch.compiler.reset()


def networks():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
    return student, nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))


def train(**settings):
    student, teacher = networks()
    method = settings.pop("method", None)
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "checkpoint_seconds": 0.0, **settings}
    return lb.fit(student, DATA, DATA, teacher=teacher, method=method, **settings), student, teacher


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_a_traced_training_is_the_same_and_leaves_plain_modules(traced):
    counters.clear()
    plain, _, _ = train()
    assert not counters["stats"]
    result, student, teacher = train(compile=True)
    assert counters["stats"]["unique_graphs"] >= 3  # the student in both modes, and the teacher
    assert torch.equal(weights(plain.student), weights(result.student))
    assert plain.history == result.history
    assert list(student.state_dict()) == list(plain.student.state_dict())
    assert student._compiled_call_impl is teacher._compiled_call_impl is None


@pytest.mark.thorough
def test_a_traced_training_is_resumed_and_its_folder_is_not_that_of_another(traced, tmp_path):
    def stop(progress):
        if progress.epoch == 2:
            raise RuntimeError("stopped")

    wanted = weights(train(compile=True)[0].student)
    with pytest.raises(RuntimeError, match="stopped"):
        train(compile=True, folder=tmp_path / "run", watch=stop)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert torch.equal(weights(train(compile=True, folder=tmp_path / "run")[0].student), wanted)
    with pytest.raises(RunError, match="compile"):
        train(folder=tmp_path / "other")
    model = networks()[0]
    lb.training.load_weights(model, tmp_path / "run" / "student.safetensors")
    assert torch.equal(weights(model), wanted)


def test_a_training_that_is_not_compiled_is_known_as_before_there_was_the_setting():
    distiller = lb.Distiller(networks()[0], None, methods.hard())
    known = identity_of(distiller, DATA, None, lb.Training(), 0)
    assert "training.compile" not in known
    assert identity_of(distiller, DATA, None, lb.Training(compile=True), 0)["training.compile"] is True


@pytest.mark.parametrize(
    ("settings", "error", "expected"),
    [
        ({"compile": "graphs"}, InputError, "compile: found graphs on cpu; expected a CUDA device. Use compile: true"),
        ({"compile": "fast"}, InputError, "compile: found 'fast'"),
        ({"compile": True, "method": methods.input_gradient()}, ModelError, "differentiates a gradient of the student"),
        ({"compile": True, "method": methods.hint(layers={"0": "0"})}, ModelError, "read features of the student"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_line(settings, error, expected):
    with pytest.raises(error) as caught:
        train(**settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_graphs_refuse_parts_of_a_step():
    distiller = lb.Distiller(*networks(), methods.kd())
    with pytest.raises(InputError, match="graphs with accumulate 2"):
        module.check_compile(distiller, lb.Training(compile="graphs", accumulate=2), torch.device("cuda"))


def test_a_failure_leaves_plain_modules(traced):
    student, teacher = networks()
    with pytest.raises(RuntimeError, match="stopped"):
        lb.fit(student, DATA, teacher=teacher, epochs=1, compile=True, watch=_stop)
    assert student._compiled_call_impl is teacher._compiled_call_impl is None


def _stop(progress):
    raise RuntimeError("stopped")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_code_gives_the_same_training_to_rounding():
    torch.compiler.reset()
    counters.clear()
    plain, compiled = train()[0], train(compile=True)[0]
    assert counters["stats"]["unique_graphs"] >= 2
    assert counters["inductor"]
    torch.testing.assert_close(weights(compiled.student), weights(plain.student), rtol=1e-4, atol=1e-5)
    for one, other in zip(plain.history, compiled.history, strict=True):
        assert one["train"]["total"] == pytest.approx(other["train"]["total"], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", [True, "graphs"])
def test_compiled_code_and_graphs_give_the_same_training_on_cuda(how):
    torch.compiler.reset()
    plain, compiled = train()[0], train(compile=how)[0]
    torch.testing.assert_close(weights(compiled.student), weights(plain.student), rtol=1e-3, atol=1e-4)
