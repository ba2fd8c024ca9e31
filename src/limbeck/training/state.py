"""The state of one training: everything that must survive an interruption, and where it is kept."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked_fields
from limbeck.distiller import Distiller
from limbeck.errors import CheckpointError, RunError, UnwrittenError
from limbeck.identity import known_from_files
from limbeck.networks import as_shard, fill, tensors_of
from limbeck.ranks import first_does, held_by_first, same_in_all
from limbeck.records import as_json
from limbeck.training import checkpoints
from limbeck.training.averaging import MeanOfWeights, WeightAverage
from limbeck.training.dividing import whole
from limbeck.training.engine import Signals
from limbeck.training.identity import require_same, short
from limbeck.training.loss_sums import LossSums
from limbeck.training.sharding import Shards
from limbeck.training.weights import RESULT, load_result, save_result

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Result", "Run", "checked_history", "held"]

_Carried = tuple[dict[str, Tensor], dict[str, Any]]
"""The recurrent states of a process: their tensors, and how these are nested."""


@checked_fields
@dataclass
class Result:
    """A finished training.

    Attributes:
        student: the trained network, with the weights that were kept.
        epoch: of the kept weights, from 1.
        steps: optimizer steps done.
        metrics: of the kept weights on the validation set.
        history: one entry an epoch.
        seconds: wall time of this call.
        along: {epoch: the student after it}, for the epochs that `fit_or_read` was asked for.

    Example:
        >>> from torch import nn
        >>> Result(nn.Linear(3, 4), epoch=2, steps=8).metrics
        {}
    """

    student: nn.Module
    epoch: int
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    along: dict[int, nn.Module] = field(default_factory=dict)


@contextmanager
def held(folder: str | Path | None) -> Iterator[None]:
    """Make a training's folder and hold it for the scope; RunError when another process trains in it.

    A training that has ended is only read, which any number of processes may do.
    """
    if folder is None:
        yield
        return
    path = Path(folder)

    def ended() -> bool:
        if (path / RESULT).is_file():
            return True
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"run folder: cannot make '{path}' ({error.strerror}); name a folder that can be written"
            ) from None
        return False

    busy = f"run folder: '{path}' is in use by another training; wait for it, or name another folder"
    if first_does(ended):
        yield
        return
    with held_by_first(path / ".training.lock", wait=False, busy=busy):
        yield


class Run:
    """Where a training stands; it is saved to and read from its folder as a whole.

    epoch: epochs done.  batch: optimizer steps done in the current epoch.  step: optimizer steps done in all.
    """

    def __init__(
        self,
        folder: str | Path | None,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | MeanOfWeights | None,
        loss_sums: LossSums,
        accelerator: "Accelerator",
        shards: Shards | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.distiller, self.optimizer, self.average = distiller, optimizer, average
        self.loss_sums, self.accelerator = loss_sums, accelerator
        self._shards = Shards() if shards is None else shards
        self.epoch = self.batch = self.step = self.stale = 0
        self.best_epoch, self.best_score = 0, (math.inf, math.inf)
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.finished = False
        self.last_good = "no checkpoint was written"
        self._identity: dict[str, Any] = {}
        self._saved_at = time.monotonic()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last validation."""
        return dict(self.history[-1]["validation"]) if self.history else {}

    @property
    def losses(self) -> list[float]:
        """The loss on labels of every validation, in nats."""
        return [entry["validation"]["nll"] for entry in self.history if entry["validation"]]

    # -- saving ------------------------------------------------------------------------------------------------------

    def due(self, seconds: float, signal: Signals) -> bool:
        """Whether to save after this step; all processes agree."""
        if self.folder is None:
            return False
        if self.accelerator.num_processes > 1:
            if self.step % 20:
                return False
            signal.share(self.accelerator)
        wanted = signal.received is not None or time.monotonic() - self._saved_at >= seconds
        if self.accelerator.num_processes == 1:
            return wanted
        flag = torch.tensor(int(wanted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def save(self) -> None:
        """Write a checkpoint."""
        if self.folder is None:
            return
        self.loss_sums.read(self.last_good)
        carried, sums = self._carried(), self._sums()
        optimizer_tensors, optimizer_state = checkpoints.optimizer_tensors(self.optimizer)
        tensors = {
            **{f"model.{name}": tensor for name, tensor in _own_tensors(self.distiller).items()},
            **optimizer_tensors,
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
            **{f"generator.{name}": tensor for name, tensor in self._generators().items()},
            **{f"carry.{name}": tensor for tensors, _ in carried for name, tensor in tensors.items()},
        }
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state.items()}
        gathered = whole(tensors)
        self.last_good = first_does(lambda: self._write(gathered, optimizer_state, sums, carried))
        self._saved_at = time.monotonic()

    def _write(
        self,
        tensors: Mapping[str, Tensor],
        optimizer: Any,
        sums: list[dict[str, list[float]]],
        carried: list[_Carried],
    ) -> str:
        """Write what all processes have into a checkpoint, and return where it is."""
        if self.folder is None:
            raise ValueError("a checkpoint is written into a folder")
        scaler = self.accelerator.scaler
        state = {
            "identity": self._identity,
            "optimizer": optimizer,
            "average_updates": 0 if self.average is None else self.average.updates,
            "scaler": None if scaler is None else scaler.state_dict(),
            "sums": sums[0] if len(sums) == 1 else sums,
            "carry": _merged([structure for _, structure in carried]),
            "best": [self.best_epoch, *self.best_score],
            "progress": [self.epoch, self.batch, self.step, self.stale],
            "history": self.history,
        }
        with self._writing("a checkpoint"):
            path = checkpoints.write(self.folder / "checkpoints", self.step, tensors, state)
        return f"last good checkpoint: {path}"

    def resume(self, wanted: Mapping[str, Any], at: int | None = None) -> None:
        """Go on from the folder's newest checkpoint, or from its end, if it holds the same training.

        at: the step of the checkpoint to go on from instead, 0 for none; newer ones are deleted.
        """
        self._identity = self.agree(dict(wanted))  # the first process's weights are everyone's
        if self.folder is None:
            return
        ended = self.folder / RESULT
        if ended.is_file():
            self._read_result(ended)
            return
        if at is not None:
            place, last = self.folder / "checkpoints", at
            first_does(lambda: checkpoints.remove_after(place, last))
        newest = checkpoints.newest(self.folder / "checkpoints")
        if newest is None:
            self._write_metrics()
            return
        tensors, state = checkpoints.read(newest)
        try:
            require_same(state["identity"], self._identity, newest)
            self._restore(tensors, state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise CheckpointError(
                f"checkpoint: '{newest}' is damaged ({type(error).__name__}: {line}); {checkpoints.mend(newest)}"
            ) from None
        self.last_good = f"last good checkpoint: {newest}"
        self._write_metrics()

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds; any of several errors when it is not what `save` writes."""
        self.history = checked_history(state["history"])
        self.epoch, self.batch, self.step, self.stale = _whole(state["progress"], 4)
        self.best_epoch, self.best_score = _whole(state["best"][:1], 1)[0], _score(state["best"][1:])
        if len(self.history) != self.epoch or self.best_epoch > self.epoch:
            raise ValueError(f"{len(self.history)} epochs of {self.epoch}")
        if any(tensor.is_complex() for tensor in tensors.values()):
            raise ValueError("a tensor is complex")
        model = _under(tensors, "model.")
        if missing := _own_tensors(self.distiller).keys() - model.keys():
            raise ValueError(f"it has no {min(missing)}")
        fill(self.distiller, model)
        checkpoints.restore_optimizer(self.optimizer, tensors, state["optimizer"])
        student = self.distiller.student
        device, weights = self.accelerator.device, tensors_of(student)
        if self.average is not None:
            found = _under(tensors, "average.").items()
            self.average.state = {name: as_shard(value.to(device), weights.get(name)) for name, value in found}
            self.average.updates = state["average_updates"]
            self.average.observe(self.losses)
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        sums = state["sums"] if isinstance(state["sums"], list) else [state["sums"]]
        self.loss_sums.restore(sums, self.accelerator.process_index, self.accelerator.num_processes)
        self.distiller.carry.restore(_under(tensors, "carry."), state.get("carry", {}), self.accelerator.device)
        self.best = {name: as_shard(value, weights.get(name)) for name, value in _under(tensors, "best.").items()}
        averaged = {} if self.average is None else self.average.state
        for kept, own in ((self.best, _own_tensors(student)), (averaged, weights)):
            if kept and {name: tensor.shape for name, tensor in kept.items()} != {
                name: tensor.shape for name, tensor in own.items()
            }:
                raise ValueError("the weights that are kept are not the student's")
        self._restore_generators(_under(tensors, "generator."))

    # -- epochs ------------------------------------------------------------------------------------------------------

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Put the averaged weights into the student for the scope, where there are any."""
        if self.average is None or not self.average.begun:
            yield
            return
        own = self.average.swap(self.distiller.student)
        try:
            yield
        finally:
            fill(self.distiller.student, own)

    def agree(self, own: dict[str, Any]) -> dict[str, Any]:
        """Return what the first process has (metrics, say), so that all decide alike."""
        if self.accelerator.num_processes == 1:
            return own
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([own])[0]  # type: ignore[no-any-return]

    def end_epoch(self, line: dict[str, Any], *, keep_best: bool) -> None:
        """Note an epoch's metrics and whether it is the best so far: fewest errors, then the smallest loss."""
        self.epoch += 1
        self.batch = 0
        self.loss_sums.clear()
        self.history.append(line)
        metrics = line["validation"]
        score = (metrics["errors"], metrics["nll"]) if metrics else (0.0, -float(self.epoch))
        if score < self.best_score:
            self.best_score, self.best_epoch, self.stale = score, self.epoch, 0
            if keep_best:
                with self.kept_weights():
                    own = _own_tensors(self.distiller.student)
                    self.best = {name: tensor.detach().clone() for name, tensor in own.items()}
        else:
            self.stale += 1
        if self.average is not None:
            self.average.observe(self.losses)
        if self.folder is not None:
            path = self.folder / "metrics.jsonl"

            def add() -> None:
                with self._writing("metrics"), path.open("a") as file:
                    file.write(as_json(line, indent=None) + "\n")

            first_does(add)

    def finish(self, *, keep_best: bool, seconds: float) -> Result:
        """Put the weights that are kept into the student, and write them with the result."""
        if not self.finished:
            if keep_best:
                fill(self.distiller.student, self.best)
            elif self.average is not None and self.average.begun:
                self.average.swap(self.distiller.student)
        self._shards.gather()
        student = self.distiller.student
        if not self.finished:
            same_in_all(student)
        epoch = self.best_epoch if keep_best else self.epoch
        metrics = dict(self.history[epoch - 1]["validation"])
        if self.folder is not None:
            folder = self.folder
            if not self.finished:
                first_does(lambda: self._write_result(folder))
            self.last_good = f"the training had ended: '{folder}'"
        return Result(student, epoch, self.step, metrics, self.history, seconds)

    def _write_result(self, folder: Path) -> None:
        ended = {
            "identity": self._identity,
            "progress": [self.epoch, self.batch, self.step, self.stale],
            "best": [self.best_epoch, *self.best_score],
            "history": self.history,
        }
        with self._writing("the result"):
            save_result(self.distiller.student, folder, ended)
        checkpoints.remove(folder / "checkpoints")

    # -- parts -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        gone = f"run folder: '{self.folder}' is gone, so {what} cannot be written; start a new run"
        if self.folder is not None and not self.folder.is_dir():  # nothing may look like a run that is only its end
            raise RunError(gone)
        try:
            yield
        except OSError as error:
            if self.folder is not None and not self.folder.is_dir():  # since
                raise RunError(gone) from None
            raise UnwrittenError(
                f"run folder: cannot write {what} to '{self.folder}' ({error.strerror or error})"
            ) from None

    def _read_result(self, path: Path) -> None:
        ended = checkpoints.read_sealed(path)
        try:
            require_same(ended["identity"], self._identity, path)
            self.history = checked_history(ended["history"])
            self.epoch, self.batch, self.step, self.stale = _whole(ended["progress"], 4)
            self.best_epoch, self.best_score = _whole(ended["best"][:1], 1)[0], _score(ended["best"][1:])
            if not 0 < self.best_epoch <= self.epoch == len(self.history):
                raise ValueError(f"the best epoch is {self.best_epoch} of {len(self.history)}")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"'{path}' is damaged ({error!r}); delete it to start again") from None
        self._shards.gather()
        load_result(self.distiller.student, path.parent, ended)
        if self.accelerator.is_main_process:  # a process that was killed right after its result may have left some
            checkpoints.remove(path.with_name("checkpoints"))
        self.finished = True

    def _write_metrics(self) -> None:
        if self.folder is not None:
            path, lines = (
                self.folder / "metrics.jsonl",
                "".join(as_json(line, indent=None) + "\n" for line in self.history),
            )

            def write() -> None:
                with self._writing("metrics"):
                    checkpoints.write_text(path, lines)

            first_does(write)

    def _sums(self) -> list[dict[str, list[float]]]:
        if self.accelerator.num_processes == 1:
            return [self.loss_sums.sums]
        from accelerate.utils import gather_object

        return gather_object([self.loss_sums.sums])  # type: ignore[no-any-return]

    def _carried(self) -> list[_Carried]:
        """Return the recurrent states that each process carries; their lanes tell them apart."""
        own = self.distiller.carry.tensors(), self.distiller.carry.structure()
        if self.accelerator.num_processes == 1:
            return [own]
        from accelerate.utils import gather_object

        tensors, structure = own
        return gather_object([({name: each.cpu() for name, each in tensors.items()}, structure)])  # type: ignore[no-any-return]

    def _generators(self) -> dict[str, Tensor]:
        own = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        if self.accelerator.num_processes == 1:
            return {f"0.{name}": state for name, state in own.items()}
        from accelerate.utils import gather_object

        everyone = gather_object([{name: state.tolist() for name, state in own.items()}])
        return {
            f"{rank}.{name}": torch.tensor(state, dtype=torch.uint8)
            for rank, states in enumerate(everyone)
            for name, state in states.items()
        }

    def _restore_generators(self, states: Mapping[str, Tensor]) -> None:
        rank = self.accelerator.process_index
        if f"{rank}.cpu" in states:
            torch.set_rng_state(states[f"{rank}.cpu"])
        if f"{rank}.cuda" in states and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(states[f"{rank}.cuda"], self.accelerator.device)


def checked_history(history: Any) -> list[dict[str, Any]]:
    """Return the entries of a history, one an epoch; ValueError where they are not what a training writes.

    A null stands for a figure that was not finite, and is returned as NaN.
    """
    if not isinstance(history, list):
        raise ValueError("the history is not a list")
    found = []
    for number, entry in enumerate(history, start=1):
        if not isinstance(entry, dict) or entry.get("epoch") != number:
            raise ValueError(f"the history has no epoch {number}")
        _whole([entry["epoch"], entry.get("step", 0)], 2)
        parts = [entry.get("train"), entry.get("validation"), {"rate": entry.get("learning_rate", 0.0)}]
        if not all(isinstance(part, dict) and all(map(_is_figure, part.values())) for part in parts):
            raise ValueError(f"the history's epoch {number} does not hold numbers")
        known = {
            key: {name: math.nan if value is None else value for name, value in entry[key].items()}
            for key in ("train", "validation")
        }
        found.append({**entry, **known})
    return found


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the parts of all processes, by model and first lane."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, lanes in part.items():
            merged.setdefault(name, {}).update(lanes)
    return merged


def _whole(values: Any, count: int) -> list[int]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"found {short(values)}, expected {count} whole numbers")
    if any(isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53 for value in values):
        raise ValueError(f"found {short(values)}, expected whole numbers from 0 on")
    return values


def _score(values: Any) -> tuple[float, float]:
    if not isinstance(values, list) or len(values) != 2 or not all(map(_is_figure, values)):
        raise ValueError(f"found {short(values)}, expected two numbers")
    errors, nll = (math.inf if value is None else value for value in values)
    return errors, nll  # as they are: a whole number stays one in what is written next


def _is_figure(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors without frozen ones that are as they were read from files."""
    state = network.state_dict(keep_vars=True)
    base = {name for name, each in state.items() if _is_as_read(each)}
    return {name: each for name, each in tensors_of(network).items() if name not in base}


def _is_as_read(value: Any) -> bool:
    return isinstance(value, nn.Parameter) and not value.requires_grad and known_from_files(value) is not None


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
