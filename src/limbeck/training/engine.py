"""The engine under the loop: Accelerate, for precision, devices and many processes."""

import atexit
import gc
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck import ranks
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, Interrupted, RunError, one_line
from limbeck.networks import is_sharded, is_unsized
from limbeck.objective import Objective, Term
from limbeck.randomness import derive_seed
from limbeck.training.progress import Observer, Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "Signals",
    "check_alone",
    "check_precision",
    "engine",
    "global_counts",
    "keep_own_buffers",
    "laid_out",
    "placed",
    "prepared",
    "seeded",
    "signals",
    "sum_over_ranks",
    "undisturbed",
    "unwrapped",
]

_WATCHED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
_FEW_CHANNELS = 8
_HANG_UP = getattr(signal, "SIGHUP", None)  # a terminal that closes may send two, and Windows has none


def check_precision(precision: str) -> None:
    """Require a precision that this machine can train in."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision: fp16 needs a GPU; use fp32 or bf16 on this machine")


def engine(precision: str) -> "Accelerator":
    """Return an Accelerator of a precision, whatever precision an earlier run in this process had."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    check_precision(precision)
    ranks.join()
    AcceleratorState._reset_state()  # noqa: SLF001 - the one way to change the precision within a process
    # Without being told so, Accelerate takes each of several processes on CPUs for the only one.
    cpu = not torch.accelerator.is_available()
    # What no active term reaches has no gradient: a layer above a hint, a projection whose weight has come to 0.
    idle = DistributedDataParallelKwargs(find_unused_parameters=True)
    mixed = {"fp32": "no"}.get(precision, precision)
    with ranks.plain_environment():
        try:
            accelerator = Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[idle])
        except (ValueError, RuntimeError) as error:
            set_here = " and ".join(name for name in ranks.DEVICE_NAMES if name in os.environ)
            if not set_here:
                raise
            raise InputError(f"{set_here}: Accelerate refuses it ({one_line(error)}); unset it") from None
    if accelerator.num_processes != ranks.world_size():
        raise InputError(
            f"processes: {ranks.world_size()} have met, but Accelerate trains in {accelerator.num_processes} on "
            f"{accelerator.device.type}; train in one process there"
        )
    if accelerator.num_processes > 1:
        atexit.unregister(_part)
        atexit.register(_part)
    return accelerator


def _part() -> None:
    """Part from the other processes; a process that ends without it may be aborted by its communication threads."""
    if torch.distributed.is_initialized():
        gc.collect()  # what is left of ended trainings holds the group, whose threads would outlive it
        torch.distributed.destroy_process_group()


def prepared(accelerator: "Accelerator", distiller: Distiller, raw: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Return the module and the optimizer to step with: wrapped by Accelerate only where that adds something.

    Its wrapper of an optimizer looks for installed packages at every step, which takes 0.2 ms, a tenth of a small
    network's step.  A student that is divided among processes (FSDP) needs no DDP.
    """
    if is_sharded(distiller):
        return accelerator.prepare_model(distiller, device_placement=False, evaluation_mode=True), raw
    module, optimizer = accelerator.prepare(distiller, raw)
    plain = accelerator.distributed_type.value in ("NO", "MULTI_CPU", "MULTI_GPU")
    return module, raw if plain and accelerator.scaler is None else optimizer


def global_counts(
    accelerator: "Accelerator", objective: Objective, micros: Sequence[Batch]
) -> Mapping[str, Tensor | int] | None:
    """Add up the counts of a step's micro-batches over all ranks; None where the one batch is the whole step."""
    if len(micros) == 1 and accelerator.num_processes == 1:
        return None
    counts = [objective.counts(micro) for micro in micros]
    names = list(counts[0])
    sums = [torch.as_tensor(sum(count[name] for count in counts), device=accelerator.device) for name in names]
    return dict(zip(names, sum_over_ranks(accelerator, torch.stack(sums)), strict=True))


def keep_own_buffers(distiller: Distiller) -> None:
    """Leave the state of terms out of what DDP copies from the first process to all others before each step."""
    terms = ((path, each) for path, each in distiller.named_modules() if isinstance(each, Term))
    own = [f"{path}.{name}" for path, term in terms for name, _ in term.named_buffers(recurse=False)]
    if own and ranks.world_size() > 1:
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(distiller, own)  # noqa: SLF001


def sum_over_ranks(accelerator: "Accelerator", tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if accelerator.num_processes == 1:
        return tensor
    return accelerator.reduce(tensor, reduction="sum")  # type: ignore[no-any-return]


@contextmanager
def laid_out(module: nn.Module, memory_format: str) -> Iterator[None]:
    """Keep the weights of a module's convolutions in a memory format inside the scope, and contiguous afterwards.

    Raises InputError for a convolution with which torch would end the process.
    """
    tensors = []
    if memory_format != "contiguous":
        _refuse_crash(module)
        every = (tensor for tensor in (*module.parameters(), *module.buffers()) if not is_unsized(tensor))
        tensors = [tensor for tensor in every if tensor.dim() == 4]
    for tensor in tensors:
        tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.data = tensor.data.contiguous()


def _refuse_crash(module: nn.Module) -> None:
    """Refuse convolutions whose backward pass on a CPU writes outside of its memory in channels_last (torch 2.13)."""
    for path, layer in module.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.weight.device.type == "cpu"
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.groups == 1
            and 1 < layer.in_channels < _FEW_CHANNELS
        ):
            raise InputError(
                f"memory_format: found channels_last with {layer.in_channels} channels before '{path}', a 1x1"
                f" convolution with a stride, with which torch crashes on a CPU; expected {_FEW_CHANNELS} channels or"
                " more. Leave memory_format out, or widen the layer before it"
            )


def placed(batch: Batch, device: torch.device, memory_format: str) -> Batch:
    """Return a batch on a device, its images in a memory format."""
    batch = batch.to(device)
    return batch if memory_format == "contiguous" else batch.channels_last()


@contextmanager
def unwrapped(module: nn.Module) -> Iterator[None]:
    """Take off a module, when the scope ends, what Accelerate put on it, so that it can be prepared anew."""
    marks = ("forward", "_original_forward", "_is_accelerate_prepared")
    before = {mark: module.__dict__[mark] for mark in marks if mark in module.__dict__}
    module.__dict__.pop(marks[-1], None)  # else another Accelerator's precision would stay
    try:
        yield
    finally:
        for mark in marks:
            module.__dict__.pop(mark, None)
        module.__dict__.update(before)


@contextmanager
def seeded(seed: int, rank: int) -> Iterator[None]:
    """Give this process its own dropout numbers inside the scope, and the caller's generator back afterwards.

    The generator is the process's: RunError while another thread trains.
    """
    with _alone(), torch.random.fork_rng(_devices()):
        torch.manual_seed(derive_seed(seed, "dropout", rank))
        yield


def undisturbed(watch: Observer) -> Observer:
    """Return an observer that may draw random numbers, or train, without changing those that dropout draws next."""

    def look(progress: Progress) -> None:
        with torch.random.fork_rng(_devices()):
            watch(progress)

    return look


def _devices() -> Sequence[int]:
    return range(torch.cuda.device_count()) if torch.cuda.is_available() else []


_trainings: list[int] = []
"""The thread of each training that has begun and not ended, in this process."""
_trainings_lock = threading.Lock()


def check_alone() -> None:
    """Refuse to train while another thread does; trainings that take turns are in one."""
    if any(thread != threading.get_ident() for thread in _trainings):
        raise RunError(
            "fit: another thread of this process is training, and both would draw dropout from one generator; train one"
            " after the other, in one call of fit_many, or in processes of their own"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """Note that this thread trains; RunError while another one does."""
    me = threading.get_ident()
    with _trainings_lock:
        check_alone()
        _trainings.append(me)
    try:
        yield
    finally:
        with _trainings_lock:
            _trainings.remove(me)


class Signals:
    """Which signal asked the run to stop, if any did.

    received: known to all processes; where there are several, what one receives counts once it is shared.
    own: what this process received.
    """

    received: int | None = None
    own: int | None = None

    def note(self, number: int) -> None:
        """Note a signal that this process received."""
        self.own = number
        if ranks.world_size() == 1:
            self.received = number

    def share(self, accelerator: "Accelerator") -> None:
        """Let all processes know of a signal that one of them received."""
        if accelerator.num_processes > 1:
            flags = torch.tensor([int(self.own == number) for number in _WATCHED], device=accelerator.device)
            for number, count in zip(_WATCHED, sum_over_ranks(accelerator, flags).tolist(), strict=True):
                if count:
                    self.received = number

    def stop(self, saved: str) -> None:
        """End the run as the signal asked, after its state was saved."""
        if self.received is not None:
            raise Interrupted(f"interrupted by {signal.Signals(self.received).name}; {saved}", self.received)


@contextmanager
def signals(enabled: bool) -> Iterator[Signals]:
    """Take SIGINT, SIGTERM and SIGHUP as a wish to save and stop at the next step; a second one stops at once.

    A SIGHUP that the process ignores, as under nohup, stays ignored, and a second one stops nothing.
    Several processes meet before that, and a scope that another one has left ends with RunError.
    """
    state = Signals()
    ranks.join()
    with ranks.all_there():
        if not enabled or threading.current_thread() is not threading.main_thread():
            yield state
            return
        with _received_by(state):
            yield state


@contextmanager
def _received_by(state: Signals) -> Iterator[None]:
    before: dict[int, Any] = {}

    def receive(number: int, _frame: Any) -> None:
        state.note(number)
        for watched, handler in before.items():
            signal.signal(watched, signal.SIG_IGN if watched == _HANG_UP else handler)

    for number in _WATCHED:
        handler = signal.getsignal(number)
        if handler is None or (number == _HANG_UP and handler == signal.SIG_IGN):
            continue  # None: a handler that Python did not set, and cannot put back
        before[number] = handler
        signal.signal(number, receive)
    try:
        yield
    finally:
        for watched, handler in before.items():
            signal.signal(watched, handler)
