"""Parity: whether an exported file, read in another process, answers as the network that it was exported from."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.errors import ExportError
from limbeck.evaluation import Timing, time_forward
from limbeck.exporting import ExportedStep
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.results.asked import Named, Size, handed
from limbeck.tasks import Task, task_named

__all__ = [
    "Exported",
    "Limits",
    "Parity",
    "Quantized",
    "answer_in_file",
    "prove",
    "timing_of",
]

_TIMED = 0.2  # seconds
_NEAR = 0.01
"""By what share of the spread numbers may differ to count as the same, where agreement is all that is asked."""


@dataclass(frozen=True)
class Parity:
    """How an exported model's answers differ from those of the model that was exported.

    samples: of the validation part, in batches of 7, the first of them one by one too.  largest: max|Δlogit| as a share
    of the logits' spread.  divergence: mean KL in nats; 0 where there are no classes.  agreement: the share of the
    places whose prediction is the same; of numbers, those that differ by at most a hundredth of the spread.  lengths:
    of the texts that were asked besides, padded and full.  sizes: those of the images that were asked besides.
    """

    samples: int
    largest: float
    divergence: float
    agreement: float
    lengths: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()


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
    language models one step.  image_sizes: "free", or why the graph takes images of one size alone; None where it takes
    no images, or there is no graph.
    """

    folder: Path
    to: str
    bytes: int
    before: int
    parity: Parity
    torch: Timing
    exported: Timing
    quantized: Quantized | None = None
    image_sizes: str | None = None


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


def prove(
    model: nn.Module,
    folder: Path,
    batches: Sequence[Named],
    limits: Limits,
    *,
    task: Task,
    samples: int,
    lengths: Sequence[tuple[int, Named]] = (),
    sizes: Sequence[tuple[Size, Named]] = (),
) -> tuple[Parity, Timing]:
    """Compare a model's answers with those of its folder in a fresh process; ExportError where they differ too much.

    Returns the parity, and the time of an answer of the folder's model at batch size 1 on one thread.
    """
    every = [*batches, *(batch for _, batch in (*lengths, *sizes))]
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
    for ours, others in pairs:
        if ours.shape != others.shape:
            raise ExportError(
                f"export: found answers of shape {tuple(others.shape)} where the network's have {tuple(ours.shape)}; "
                "expected the same. Where sequences are packed, pass total_length=x.shape[1], or mask what is padded"
            )
    found = replace(
        _compared(pairs, samples, task),
        lengths=tuple(dict.fromkeys(length for length, _ in lengths)),
        sizes=tuple(dict.fromkeys(size for size, _ in sizes)),
    )
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
    script = "import sys; from limbeck.results.exported_folder import answer; answer(*sys.argv[1:])"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder.resolve()), str(given), str(answered)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        reason = re.sub(r"^limbeck\.errors\.\w+: ", "", (ran.stderr.strip().splitlines() or ["it was killed"])[-1])
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
    step = step or isinstance(model, ExportedStep)
    first = {name: each[:1, :1] if step else each[:1] for name, each in batch.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return time_forward(model, handed(first), budget=_TIMED)
    finally:
        torch.set_num_threads(threads)


def _compared(pairs: Sequence[tuple[Tensor, Tensor]], count: int, task: Task) -> Parity:
    """Return how answers differ; those of a pair may have another shape than those of the next one."""
    if any(one.shape != other.shape or not one.isfinite().equal(other.isfinite()) for one, other in pairs):
        return Parity(count, float("inf"), float("inf"), 0.0)
    rows = [(one.double().flatten(0, -2), other.double().flatten(0, -2)) for one, other in pairs]
    known = torch.cat([one[one.isfinite()] for one, _ in rows])
    spread = float((known.max() - known.min()).clamp(min=1e-30))
    apart = torch.cat([(one - other)[one.isfinite()].abs() for one, other in rows])
    largest = float(apart.max()) / spread
    if not task.has_probabilities:
        same = torch.cat([(one - other).abs().amax(-1).le(_NEAR * spread) for one, other in rows])
        return Parity(count, largest, 0.0, float(same.double().mean()))
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in rows])
    divergence = torch.cat([_divergence(one.log_softmax(-1), other.log_softmax(-1)) for one, other in rows])
    return Parity(count, largest, float(divergence.mean()), float(same.double().mean()))


def _divergence(logs: Tensor, others: Tensor) -> Tensor:
    return torch.where(logs.exp() > 0, logs.exp() * (logs - others), 0.0).sum(-1)
