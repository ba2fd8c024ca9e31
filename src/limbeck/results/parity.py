"""Parity: whether an exported file, read in another process, answers as the network that it was exported from."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.errors import ExportError, ModelError
from limbeck.evaluation import Timing, time_forward
from limbeck.exporting import ExportedNetwork, Inputs
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.tasks import Task, task_named

__all__ = [
    "MOST",
    "Exported",
    "Limits",
    "Named",
    "Parity",
    "Quantized",
    "answer_in_file",
    "batches_of",
    "handed",
    "lengths_of",
    "prove",
    "timing_of",
]

MOST, _ONE_BY_ONE, _TOGETHER = 256, 32, 7
_MOST_BYTES = 2**26  # of answers that are compared
_TIMED = 0.2  # seconds
_NEAR = 0.01
"""By what share of the spread numbers may differ to count as the same, where agreement is all that is asked."""

Named = dict[str, Tensor]
"""Inputs by name; those of a network without keywords have the name ""."""


@dataclass(frozen=True)
class Parity:
    """How an exported model's answers differ from those of the model that was exported.

    samples: of the validation part, in batches of 7, the first of them one by one too.  largest: max|Δlogit| as a share
    of the logits' spread.  divergence: mean KL in nats; 0 where there are no classes.  agreement: the share of the
    places whose prediction is the same; of numbers, those that differ by at most a hundredth of the spread.  lengths:
    of the texts that were asked besides, padded and full.
    """

    samples: int
    largest: float
    divergence: float
    agreement: float
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Quantized:
    """What 8-bit weights changed: bytes before, parity, and the main figure of validation samples before and after."""

    bytes_before: int
    parity: Parity
    figure: str
    examples: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Exported:
    """What was exported: its folder and format, the bytes of its file, those of the run's own, the parity, the times.

    torch, exported: an answer at batch size 1 on one thread, of the network and of what was exported; for recurrent
    language models one step.
    """

    folder: Path
    to: str
    bytes: int
    before: int
    parity: Parity
    torch: Timing
    exported: Timing
    quantized: Quantized | None = None


@dataclass(frozen=True)
class Limits:
    """What a parity has to keep: the largest difference, the mean KL, the least agreement; None for no limit."""

    largest: float | None = None
    divergence: float | None = None
    agreement: float | None = None

    def complaint(self, found: Parity) -> str | None:
        """Return what a parity does not keep."""
        if self.largest is not None and not found.largest <= self.largest:
            return (
                f"export: found answers that differ by {found.largest:.3g} of the logits' spread; expected "
                f"{self.largest:.3g} at most. Nothing was written; state another limit with --tolerance"
            )
        if self.divergence is not None and not found.divergence <= self.divergence:
            return (
                f"export: found answers with a mean KL of {found.divergence:.3g} nats; expected {self.divergence:.3g} "
                "at most. Nothing was written"
            )
        if self.agreement is not None and not found.agreement >= self.agreement:
            return (
                f"export: found {100 * found.agreement:.4g} % of the predictions the same; expected "
                f"{100 * self.agreement:.4g} % at least. Nothing was written; state another limit with --agreement"
            )
        return None


def batches_of(model: nn.Module, samples: Any) -> list[Named]:
    """Return inputs of validation samples, some one by one and all in batches of 7, as tensors by name.

    samples: with a length, a `task` and `batch(positions)`, as a `SampleSet` has.
    """
    one = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0)
    with evaluating(model), torch.no_grad():
        logits = run_model(model, one.inputs, task=samples.task).logits
    most = max(_TOGETHER, _MOST_BYTES // max(1, logits.numel() * logits.element_size()))
    positions = torch.arange(min(len(samples), MOST, most))
    parts = [*positions[:_ONE_BY_ONE].split(1), *positions.split(_TOGETHER)]
    if len(samples) < _TOGETHER:
        parts.append(torch.arange(_TOGETHER) % len(samples))
    return [_named(samples.batch(part, augment=None, seed=0, view=0).inputs) for part in parts]


def _named(inputs: Inputs) -> Named:
    named = {"": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    return {name: tensor.contiguous().clone() for name, tensor in named.items()}


def handed(batch: Named) -> Inputs:
    """Return a batch as a network is called with it."""
    return batch[""] if set(batch) == {""} else batch


def lengths_of(model: nn.Module, batches: Sequence[Named], longest: int) -> list[tuple[int, Named]]:
    """Return token ids of the shortest, a middle and the longest length, full and padded, 1 and 7 rows.

    The shortest is 1, or the least that the model answers.  Nothing where samples are no token ids.
    """
    like = next(batch for batch in batches if len(next(iter(batch.values()))) == _TOGETHER)
    ids = next((each for each in like.values() if each.dim() == 2 and not each.is_floating_point()), None)
    if ids is None or longest < 2 or any(each.dim() != 2 for each in like.values()):
        return []
    found = [(length, each) for length in sorted({1, (1 + longest) // 2, longest}) for each in _of_length(like, length)]
    with evaluating(model), torch.no_grad():
        return [(length, each) for length, each in found if length > 1 or _answers(model, each)]


def _answers(model: nn.Module, batch: Named) -> bool:
    try:
        run_model(model, handed(batch))
    except ModelError:
        return False
    return True


def _of_length(like: Named, length: int) -> Iterator[Named]:
    """Yield a batch with so many tokens a row, its own again and again: full, padded, and one row alone."""
    mask = like.get("attention_mask")
    first = next(iter(like.values()))
    real = torch.full((len(first),), first.shape[1]) if mask is None else mask.long().sum(1).clamp(min=1)
    places = torch.arange(length)[None] % real[:, None]
    rows = {name: each.gather(1, places) for name, each in like.items() if each.shape == first.shape}
    if len(rows) < len(like):
        return
    if mask is not None:
        rows["attention_mask"] = torch.ones_like(rows["attention_mask"])
    yield rows
    yield {name: each[:1].contiguous() for name, each in rows.items()}
    if mask is not None and length > 1:
        seen = torch.arange(length)[None] < (length - torch.arange(len(first)) % length)[:, None]
        yield {**rows, "attention_mask": seen.to(mask.dtype)}


def prove(
    model: nn.Module,
    folder: Path,
    batches: Sequence[Named],
    limits: Limits,
    *,
    task: Task,
    samples: int,
    lengths: Sequence[tuple[int, Named]] = (),
) -> tuple[Parity, Timing]:
    """Compare a model's answers with those of its folder in a fresh process; ExportError where they differ too much.

    Returns the parity, and the time of an answer of the folder's model at batch size 1 on one thread.
    """
    every = [*batches, *(batch for _, batch in lengths)]
    with tempfile.TemporaryDirectory() as place:
        given, answered = Path(place) / "inputs.safetensors", Path(place) / "answers.safetensors"
        named = {f"{n}.{name}": each.clone() for n, batch in enumerate(every) for name, each in batch.items()}
        save_file(named, given, {"task": task.name})
        _ask(folder, given, answered)
        theirs = load_file(answered)
        with safe_open(answered, "pt") as file:
            timing = Timing(**json.loads(file.metadata()["timing"]))
    with evaluating(model), torch.no_grad():
        pairs = [
            _real(batch, run_model(model, handed(batch), task=task).logits, theirs[str(number)])
            for number, batch in enumerate(every)
        ]
    found = _compared(pairs, samples, tuple(dict.fromkeys(length for length, _ in lengths)), task)
    if (complaint := limits.complaint(found)) is not None:
        raise ExportError(complaint)
    return found, timing


def _real(batch: Named, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return answers without those for places of padding."""
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2 or ours.dim() < 3 or ours.shape[:2] != mask.shape or ours.shape != theirs.shape:
        return ours, theirs
    return ours[mask.bool()], theirs[mask.bool()]


def _ask(folder: Path, given: Path, answered: Path) -> None:
    """Let another process answer inputs with the model of a folder; ExportError where it cannot."""
    script = "import sys; from limbeck.results.exported import answer; answer(*sys.argv[1:])"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder.resolve()), str(given), str(answered)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise ExportError(f"export: the exported model cannot be read back ({reason}); nothing was written")


def answer_in_file(network: Callable[[], nn.Module], given: Path, answered: Path) -> None:
    """Answer what another process wrote, with a network that is read on one thread, and time it."""
    torch.set_num_threads(1)
    model = network()
    batches: dict[int, Named] = {}
    for name, tensor in load_file(given).items():
        number, _, key = name.partition(".")
        batches.setdefault(int(number), {})[key] = tensor
    with safe_open(given, "pt") as file:
        task = task_named(file.metadata()["task"])
    with torch.no_grad():
        answers = {
            str(number): run_model(model, handed(batch), task=task).logits.contiguous()
            for number, batch in batches.items()
        }
    save_file(answers, answered, {"timing": json.dumps(vars(timing_of(model, batches[0])))})


def timing_of(model: nn.Module, batch: Named, *, step: bool = False) -> Timing:
    """Time an answer to the first sample of a batch on one thread; of a graph that is one step, to its first token."""
    step = step or (isinstance(model, ExportedNetwork) and model.interface.states > 0)
    first = {name: each[:1, :1] if step else each[:1] for name, each in batch.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return time_forward(model, handed(first), budget=_TIMED)
    finally:
        torch.set_num_threads(threads)


def _compared(pairs: Sequence[tuple[Tensor, Tensor]], count: int, lengths: tuple[int, ...], task: Task) -> Parity:
    """Return how answers differ."""
    ours = torch.cat([one.double().flatten(0, -2) for one, _ in pairs])
    theirs = torch.cat([other.double().flatten(0, -2) for _, other in pairs])
    if theirs.shape != ours.shape or not bool(torch.equal(ours.isfinite(), theirs.isfinite())):
        return Parity(count, float("inf"), float("inf"), 0.0, lengths)
    known = ours.isfinite()
    spread = float((ours[known].max() - ours[known].min()).clamp(min=1e-30))
    largest = float((ours[known] - theirs[known]).abs().max()) / spread
    if not task.has_probabilities:
        same = (ours - theirs).abs().amax(-1).le(_NEAR * spread)
        return Parity(count, largest, 0.0, float(same.double().mean()), lengths)
    logs, others = ours.log_softmax(-1), theirs.log_softmax(-1)
    divergence = float(torch.where(logs.exp() > 0, logs.exp() * (logs - others), 0.0).sum(-1).mean())
    return Parity(count, largest, divergence, float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()), lengths)
