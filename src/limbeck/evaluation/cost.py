"""What a model costs: parameters, bytes, floating-point operations, time and memory of a forward pass."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.networks import distinct, evaluating, file_metadata, tied
from limbeck.outputs import run_model

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

Inputs = Tensor | Mapping[str, Tensor]
"""What a model is called with: a tensor (N, ...), or several by the names of its keywords."""

__all__ = [
    "Cost",
    "Timing",
    "cost",
    "file_bytes",
    "flop_counter",
    "flops",
    "parameters",
    "peak_memory",
    "time_forward",
]


@checked_fields
@dataclass(frozen=True)
class Timing:
    """Timed forward passes of one batch size.

    Attributes:
        batch: samples in the batch.
        seconds: median of a pass.
        lower: lower quartile, in seconds.
        upper: upper quartile, in seconds.
        passes: timed passes, after the warm-up.

    Example:
        >>> Timing(batch=8, seconds=0.5, lower=0.4, upper=0.6, passes=5).samples_per_second
        16.0
    """

    batch: int
    seconds: float
    lower: float
    upper: float
    passes: int

    @property
    def samples_per_second(self) -> float:
        """Throughput at the median."""
        return self.batch / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the throughput."""
        return {**vars(self), "samples_per_second": self.samples_per_second}


@checked_fields
@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: each counted once.
        bytes: of its safetensors file.
        flops: of a forward pass at batch size 1; a multiply-add is 2, element-wise operations are not counted.
        timings: seconds of a forward pass, by batch size.
        memory: peak bytes of a forward pass, {batch size: bytes}.
        device: where it was measured.
        threads: CPU threads of torch.

    Example:
        >>> cost(nn.Linear(3, 4), torch.zeros(1, 3), batches=(1,), budget=0.01).bytes > 64
        True
    """

    parameters: int
    bytes: int
    flops: int
    timings: tuple[Timing, ...]
    memory: dict[int, int]
    device: str
    threads: int


@checked
def cost(
    model: nn.Module, inputs: Inputs, *, batches: Sequence[int] = (1, 256), warm_up: int = 5, budget: float = 1.0
) -> Cost:
    """Measure the cost of a model on its device.

    Args:
        model: the network.
        inputs: (N, ...), samples on the model's device, repeated to fill a batch; or a mapping of such tensors, for a
            model that takes keywords.
        batches: the batch sizes to time.
        warm_up: passes that are not timed.
        budget: seconds to spend on each batch size.

    Returns:
        The cost.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> found = cost(nn.Linear(3, 4), torch.zeros(1, 3), batches=(1,), budget=0.01)
        >>> found.parameters, found.flops, found.memory
        (16, 24, {1: 16})
    """
    one = _batch(inputs, 1)
    timings = tuple(time_forward(model, _batch(inputs, n), warm_up=warm_up, budget=budget) for n in batches)
    memory = {n: peak_memory(model, _batch(inputs, n)) for n in batches}
    place = _tensors(inputs)[0].device
    device = torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)
    return Cost(
        parameters(model), file_bytes(model), flops(model, one), timings, memory, device, torch.get_num_threads()
    )


@checked
def parameters(model: nn.Module) -> int:
    """Count a model's parameters; a tied one, of which several modules have the same tensor, counts once.

    Args:
        model: a network.

    Returns:
        Their number.

    Example:
        >>> parameters(nn.Linear(3, 4))
        16
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    return sum(every[names[0]].numel() for names in tied(every))


@checked
def file_bytes(model: nn.Module) -> int:
    """Return the size of a model's safetensors file, as limbeck writes it: each tensor once, and the header.

    Args:
        model: a network.

    Returns:
        Bytes.

    Example:
        >>> file_bytes(nn.Linear(3, 4)) > 4 * 16
        True
    """
    from safetensors.torch import save

    tensors, aliases = distinct(model)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return len(save(plain, file_metadata(model, aliases) or None))


@checked
def flops(model: nn.Module, inputs: Inputs) -> int:
    """Count the floating-point operations of a forward pass with torch's counter.

    Matrix products, convolutions and attention are counted; element-wise operations, normalisation and pooling are not.

    Args:
        model: the network.
        inputs: (N, ...) on the model's device, or a mapping of such tensors by the names of the model's keywords.

    Returns:
        Operations; a multiply-add is 2.

    Example:
        >>> flops(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3))
        24
    """
    with _answering(model), flop_counter() as counter:
        run_model(model, inputs)
    return int(counter.get_total_flops())


def flop_counter() -> "FlopCounterMode":
    """Return torch's counter, a context, extended by fused attention on a CPU and by fused recurrent layers."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def recurrent(inputs: Sequence[int], *weights: Any, **_: Any) -> int:
        return int(2 * math.prod(inputs[:-1]) * sum(math.prod(each) for each in weights[:2]))

    def stacked(inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
        return 2 * math.prod(inputs[:-1]) * sum(math.prod(each) for each in weights if len(each) == 2)

    fused = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,  # noqa: SLF001 - they have no public names
        torch.ops.aten.mkldnn_rnn_layer: recurrent,
        torch.ops.aten._cudnn_rnn: stacked,  # noqa: SLF001
    }
    return FlopCounterMode(display=False, custom_mapping=fused)


@checked
def time_forward(model: nn.Module, inputs: Inputs, *, warm_up: int = 5, budget: float = 1.0) -> Timing:
    """Time forward passes of one batch, in eval mode and without gradients.

    At least 5 passes are timed and at most 1000.

    Args:
        model: the network.
        inputs: (N, ...) on the model's device, or a mapping of such tensors by the names of the model's keywords.
        warm_up: passes that are not timed.
        budget: seconds to spend.

    Returns:
        Median and quartiles of a pass.

    Example:
        >>> time_forward(nn.Linear(3, 4), torch.zeros(8, 3), budget=0.01).passes >= 5
        True
    """
    checks.at_least("warm_up", warm_up, 0)
    checks.positive("budget", budget)
    finish = _finisher(inputs)
    seconds: list[float] = []
    with _answering(model):
        for _ in range(warm_up):
            run_model(model, inputs)
        finish()
        start = time.perf_counter()
        while len(seconds) < 5 or (time.perf_counter() - start < budget and len(seconds) < 1000):
            began = time.perf_counter()
            run_model(model, inputs)
            finish()
            seconds.append(max(time.perf_counter() - began, 1e-9))  # a coarse clock may stand still
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(len(_tensors(inputs)[0]), median, lower, upper, len(seconds))


@checked
def peak_memory(model: nn.Module, inputs: Inputs) -> int:
    """Return the most bytes that a forward pass holds at once, besides weights and inputs.

    On CUDA it is the allocator's peak.  Elsewhere it is the sum of the tensors that torch's operations made and that
    were alive at once; memory that a kernel allocates internally is not seen.

    Args:
        model: the network.
        inputs: (N, ...) on the model's device, or a mapping of such tensors by the names of the model's keywords.

    Returns:
        Bytes.

    Example:
        >>> peak_memory(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))  # 4 and 2 float32
        24
    """
    with _answering(model):
        tensors = _tensors(inputs)
        place = tensors[0].device
        if place.type == "cuda":
            torch.cuda.synchronize(place)
            torch.cuda.reset_peak_memory_stats(place)
            before = torch.cuda.memory_allocated(place)
            run_model(model, inputs)
            torch.cuda.synchronize(place)
            return int(torch.cuda.max_memory_allocated(place)) - before
        known = [*tensors, *model.parameters(), *model.buffers()]
        watch = _Watch(known)
        with watch:
            run_model(model, inputs)
        return watch.peak


class _Watch(TorchDispatchMode):
    """Adds up the storages that operations made and that are alive."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                held = StorageWeakRef(storage)
                if held.cdata not in self._known:
                    self._alive[held.cdata] = (held, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


@contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients for the scope."""
    with evaluating(model), torch.no_grad():
        yield


def _finisher(inputs: Inputs) -> Callable[[], None]:
    """Return what waits until the device has done its work."""
    place = _tensors(inputs)[0].device
    if place.type == "cuda":
        return lambda: torch.cuda.synchronize(place)
    return torch.mps.synchronize if place.type == "mps" else lambda: None


def _tensors(inputs: Inputs) -> list[Tensor]:
    """Return the tensors of inputs (N, ...); InputError where they have no samples, or not the same number."""
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if not tensors or any(each.dim() == 0 for each in tensors) or len({len(each) for each in tensors}) != 1:
        found = ", ".join(str(tuple(each.shape)) for each in tensors) or "none"
        raise InputError(f"inputs: found shape {found}, expected (N, ...) with at least one sample")
    if len(tensors[0]) == 0:
        raise InputError(f"inputs: found shape {tuple(tensors[0].shape)}, expected (N, ...) with at least one sample")
    return tensors


def _batch(inputs: Inputs, size: int) -> Inputs:
    checks.at_least("batches", size, 1)
    count = len(_tensors(inputs)[0])
    places = torch.arange(size) % count

    def of_size(tensor: Tensor) -> Tensor:
        return tensor[places.to(tensor.device)] if size > count else tensor[:size]

    return {name: of_size(each) for name, each in inputs.items()} if isinstance(inputs, Mapping) else of_size(inputs)
