"""Student and teacher compiled for a training: same weights, same names, and plain modules again afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.teachers import ModelTeacher
from limbeck.training.settings import Training

__all__ = ["check_compile", "compiled", "step_begins"]

_OPTIONS: dict[str, Any] = {"options": {"fallback_random": True}}
"""For torch.compile: dropout draws the numbers that it draws without it."""
_WITH_GRAPHS: dict[str, Any] = {"options": {"fallback_random": True, "triton.cudagraphs": True}}


def check_compile(distiller: Distiller, training: Training, device: torch.device) -> None:
    """Require networks and terms that `training.compile` can be used with, on a device; one line otherwise."""
    if not training.compile:
        return
    if distiller.objective.differentiates_twice:
        raise ModelError(
            "compile: found a term that differentiates a gradient of the student, which torch.compile cannot; leave"
            " compile out"
        )
    if taps := distiller.objective.taps("student"):
        raise ModelError(
            f"compile: found terms that read features of the student ({', '.join(taps)}), which a compiled network does"
            " not hand out; leave compile out"
        )
    if training.compile != "graphs":
        return
    if device.type != "cuda":
        raise InputError(f"compile: found graphs on {device.type}; expected a CUDA device. Use compile: true")
    if training.accumulate > 1:
        raise InputError(
            f"compile: found graphs with accumulate {training.accumulate}, where the gradients of a part would be"
            " overwritten by the next; use compile: true, or accumulate: 1"
        )


@contextmanager
def compiled(distiller: Distiller, training: Training) -> Iterator[None]:
    """Compile the student, and the teacher if it is a network that only answers, inside the scope.

    The modules stay what they are: no name of a parameter changes, and no wrapper is saved.  (`Module.compile` would do
    as well, but for networks that are an `nn.Sequential`.)
    """
    networks = _networks(distiller) if training.compile else []
    before = [each._compiled_call_impl for each in networks]  # noqa: SLF001 - where Module.compile keeps it
    for network in networks:
        options = _WITH_GRAPHS if training.compile == "graphs" else _OPTIONS
        network._compiled_call_impl = torch.compile(_called(network), dynamic=False, **options)  # noqa: SLF001
    try:
        yield
    finally:
        for network, call in zip(networks, before, strict=True):
            network._compiled_call_impl = call  # noqa: SLF001


def _called(network: nn.Module) -> Callable[..., Any]:
    """Return the call of a network as a function of this module: torch.compile leaves those of torch.nn alone."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return network._call_impl(*args, **kwargs)  # noqa: SLF001

    return call


def _networks(distiller: Distiller) -> list[nn.Module]:
    teacher, objective = distiller.teacher, distiller.objective
    networks = [distiller.student]
    if isinstance(teacher, ModelTeacher) and not (objective.taps("teacher") or teacher.taps or objective.needs_network):
        networks.append(teacher.model)
    return [network for network in networks if all(getattr(each, "traceable", True) for each in network.modules())]


def step_begins(training: Training) -> None:
    """Tell CUDA graphs that what the step before computed is no longer used."""
    if training.compile == "graphs":
        torch.compiler.cudagraph_mark_step_begin()
