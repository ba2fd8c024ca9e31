"""How a command ends where memory is not there, or where a user's module tried to end the program."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import limbeck as lb
from faults import RECIPE, furnished
from limbeck.cli.ending import as_errors
from limbeck.errors import ForeignExitError, LimbeckError, MemoryLimitError, lacks_memory
from limbeck.training import fit
from walk import over

NET = """
import sys
from torch import nn
class Own(BaseException): pass
calls = 0
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)
    def forward(self, x):
        global calls
        calls += 1
        {forward}
        return self.layer(x.flatten(1))
def net():
    {factory}
    return Net()
{module}
"""

ENDS = ["sys.exit()", "sys.exit(0)", "sys.exit('done')", "raise Own('x')", "raise GeneratorExit", "quit()"]


@pytest.mark.miniature(2)
@pytest.mark.parametrize("where", ["module", "factory", "forward", "later"])
@pytest.mark.parametrize("ends", ENDS)
def test_a_module_that_ends_the_program_is_an_error_of_one_line(limbeck, tmp_path, where, ends) -> None:
    furnished(tmp_path)
    parts = {"module": "", "factory": "", "forward": ""}
    parts["forward" if where == "later" else where] = f"if calls > 12: {ends}" if where == "later" else ends
    (tmp_path / "own_net.py").write_text(NET.format(**parts))
    keys = RECIPE | {"student": {"model": {"factory": "own_net:net"}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(keys))
    answer = limbeck("distill", "recipe.yaml", "-q", "--no-report")
    assert answer.code == 1
    assert len(answer.lines) == 1, answer.err
    assert "tried to end the program (" in answer.err
    assert "own_net.py', line " in answer.err
    assert "raise an error instead" in answer.err
    logs = list(tmp_path.glob("runs/small/*/log.txt"))
    assert len(logs) == (where == "later")  # what is refused before the run leaves no folder
    assert all("stopped: a module tried to end the program" in log.read_text() for log in logs)


def test_an_interruption_by_the_user_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), as_errors():
        raise KeyboardInterrupt
    with pytest.raises(LimbeckError, match="tried to end"), as_errors():
        raise SystemExit(0)
    assert issubclass(ForeignExitError, LimbeckError)


# --------------------------------------------------------------------------------------------------------------- memory

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator:"
REFUSED: list[Exception] = [
    MemoryError(),
    RuntimeError(f"{CPU} can't allocate memory: you tried to allocate 1920000000 bytes. Error code 12 (Cannot ...)"),
    RuntimeError(f"{CPU} not enough memory: you tried to allocate 8 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    RuntimeError("std::bad_alloc"),
    OSError(12, "Cannot allocate memory"),
]


class Greedy(nn.Module):
    """Finds no memory at its third call."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.layer, self.error, self.calls = nn.Linear(3, 4), error, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return self.layer(inputs)


@over("error", REFUSED, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_fit_names_the_batch_size_and_the_size_of_the_model(tmp_path: Path, error: Exception) -> None:
    samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
    distiller = lb.Distiller(Greedy(error), None, lb.methods.hard())
    with pytest.raises(MemoryLimitError) as caught:
        fit(distiller, samples, epochs=2, batch_size=16, folder=tmp_path)
    line = str(caught.value)
    assert caught.value.exit_code == 1
    assert "training.batch_size: found 16, " in line
    assert "16 parameters in 0.0 MiB" in line
    assert "lower batch_size" in line
    if "GiB" in str(error):
        assert "2.00 GiB were asked for" in line
    if "1920000000" in str(error):
        assert "1920000000 bytes were asked for" in line
    with pytest.raises(MemoryLimitError, match="memory: found too little"), as_errors():
        raise error


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes differ"), OSError(28, "No space")])
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: Any) -> None:
    assert not lacks_memory(error)
    with pytest.raises(type(error)), as_errors():
        raise error


def test_a_run_without_memory_says_so_in_one_line_and_in_its_log(limbeck, tmp_path, monkeypatch) -> None:
    furnished(tmp_path)
    monkeypatch.setattr(nn.Linear, "forward", _refusing(nn.Linear.forward))
    answer = limbeck("distill", "recipe.yaml", "-q", "--no-report")
    assert answer.code == 1
    assert len(answer.lines) == 1, answer.err
    assert "training.batch_size: found 32, but there is not enough memory to train " in answer.err
    (log,) = tmp_path.glob("runs/small/*/log.txt")
    assert f"stopped: {answer.lines[0].removeprefix('limbeck: ')}" in log.read_text()


def _refusing(forward: Any) -> Any:
    calls = []

    def refused(self: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 60:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")
        return forward(self, inputs)

    return refused
