"""The processes that train together: how they meet, what the first one does for all, and how they end."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from limbeck import errors
from limbeck.errors import InputError, Interrupted, LimbeckError, RunError, UnwrittenError, one_line
from limbeck.locks import Waiting, exclusive

__all__ = [
    "DEVICE_NAMES",
    "Launch",
    "Lost",
    "all_rows",
    "all_there",
    "end_together",
    "first_does",
    "first_says",
    "heed_launcher",
    "held_by_first",
    "in_any",
    "is_first",
    "join",
    "launched",
    "leave",
    "own_rank",
    "plain_environment",
    "same_in_all",
    "world_size",
]

_T = TypeVar("_T")

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_UNSET = "unset RANK, WORLD_SIZE and LOCAL_RANK to train in one process, or start with torchrun"
_OTHERS_WAY = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)
_LAUNCHERS = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "PMI_", "MPI_", "OMPI_COMM_", "MV2_COMM_")
DEVICE_NAMES = ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE")
"""Variables by which Accelerate chooses a device."""

_MEETING = 120.0
"""Seconds in which all processes must have come."""
_COLLECTIVE = timedelta(minutes=30)
_GRACE = 15.0
"""Seconds that a process that has failed gives the others to end with it."""

_counted = {"meetings": 0, "calls": 0, "depth": 0, "ends": 0}
"""ends: commands that have come to an end here; several may follow one another in the same processes."""

_ending = {"begun": False, "hurried": False}


# ----------------------------------------------------------------------------------------------------------- who is who


def world_size() -> int:
    """Return how many processes train together; 1 without `torch.distributed`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def own_rank() -> int:
    """Return the number of this process among those that train together, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Return whether this process is the first of those that train together, which alone writes and prints."""
    return world_size() == 1 or distributed.get_rank() == 0


@dataclass(frozen=True)
class Launch:
    """What a launcher such as torchrun says of a process.  local: its number on this machine."""

    rank: int
    world: int
    local: int
    address: str
    port: int


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch of several processes; None where there is one.

    Raises InputError for variables that are no launch: some are missing, or no number.

    >>> place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    >>> launched({**place, "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"})
    Launch(rank=1, world=2, local=1, address='localhost', port=29500)
    >>> launched({"RANK": "0", "WORLD_SIZE": "1"}) is None
    True
    """
    for name in _OTHERS_WAY:
        if environment.get(name, "").strip().lower() in ("1", "true", "yes", "y", "on", "t"):
            raise InputError(
                f"{name}: found {environment[name]!r}; expected it unset, since the recipe says how networks are"
                " divided (training.fsdp); unset it"
            )
    found = {name: environment[name] for name in _PLACE if environment.get(name)}
    if not found or (found.get("WORLD_SIZE") == "1" and found.get("RANK", "0") == "0"):
        return None
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if name not in found:
            there = ", ".join(f"{each}={value}" for each, value in found.items())
            raise InputError(f"{name}: found it unset beside {there}; expected all three or none; {_UNSET}")
    world = _whole("WORLD_SIZE", found["WORLD_SIZE"], 1, None)
    rank = _whole("RANK", found["RANK"], 0, world - 1)
    local = _whole("LOCAL_RANK", found["LOCAL_RANK"], 0, world - 1)
    if world == 1:
        return None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise InputError(
                f"{name}: found it unset beside WORLD_SIZE={world}; expected the address to meet at; {_UNSET}"
            )
    port = _whole("MASTER_PORT", environment["MASTER_PORT"], 1, 2**16 - 1)
    return Launch(rank, world, local, environment["MASTER_ADDR"], port)


def _whole(name: str, text: str, least: int, most: int | None) -> int:
    value = int(text) if text.strip().isascii() and text.strip().isdecimal() else -1
    if value < least or (most is not None and value > most):
        limits = f"a whole number from {least} on" if most is None else f"a whole number from {least} to {most}"
        raise InputError(f"{name}: found {text!r}; expected {limits}; {_UNSET}")
    return value


@contextmanager
def plain_environment() -> Iterator[None]:
    """Let libraries find in the environment where this process stands among the others, and no other launcher's word.

    Accelerate reads many variables; a precision or a compiler that one of them names is the recipe's to say.
    """
    place: dict[str, str] = {}
    if (world := world_size()) > 1:
        rank = str(distributed.get_rank())
        place = {"RANK": rank, "WORLD_SIZE": str(world), "LOCAL_RANK": os.environ.get("LOCAL_RANK") or rank}
        place["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE") or str(world)
    hidden = (*_PLACE, "LOCAL_WORLD_SIZE", "FORK_LAUNCHED")
    before = {
        name: value
        for name, value in os.environ.items()
        if name in hidden or (name.startswith(_LAUNCHERS) and name not in DEVICE_NAMES)
    }
    for name in before:
        del os.environ[name]
    os.environ.update(place)
    try:
        yield
    finally:
        for name in hidden:
            os.environ.pop(name, None)
        os.environ.update(before)


# ---------------------------------------------------------------------------------------------------------- the meeting


def join() -> None:
    """Meet the other processes of this launch, if there are any and they have not met yet.

    Raises InputError where the launch is broken, RunError where the others do not come in two minutes.
    """
    if not distributed.is_available() or distributed.is_initialized():
        return
    launch = launched()
    if launch is None:
        return
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cuda and launch.local >= cuda:
        raise InputError(
            f"LOCAL_RANK: found {launch.local} on a machine with {cuda} GPUs; start {cuda} processes on it"
        )
    waiting = Waiting(f"processes: RANK 0 of {launch.world} has not come to {launch.address}:{launch.port}")
    try:
        store = _store_of(launch, waiting)
        _counted["meetings"] += 1
        names = [f"limbeck/{_counted['meetings']}/{rank}" for rank in range(launch.world)]
        if store.add(names[launch.rank], 1) > 1:
            raise InputError(f"RANK: found {launch.rank} in two processes; expected a different one in each; {_UNSET}")
        while missing := [rank for rank, name in enumerate(names) if not store.check([name])]:
            ranks = ", ".join(map(str, missing))
            waiting.reason = f"processes: {len(missing)} of {launch.world} have not come (RANK {ranks})"
            _go_on_waiting(waiting, launch)
        distributed.init_process_group(
            "nccl" if cuda else "gloo",
            store=distributed.PrefixStore(f"group/{_counted['meetings']}", store),  # type: ignore[attr-defined]
            rank=launch.rank,
            world_size=launch.world,
            timeout=_COLLECTIVE,
        )
    except (RuntimeError, OSError) as error:
        place = f"{launch.address}:{launch.port}"
        raise RunError(
            f"processes: cannot meet at MASTER_ADDR:MASTER_PORT {place} ({one_line(error)}); {_UNSET}"
        ) from None


def _store_of(launch: Launch, waiting: Waiting) -> Any:
    """Return the store in which the processes leave each other word; the launcher has it, or the first process."""
    has_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and launch.rank == 0
    address = "localhost" if has_it else launch.address
    while not has_it:
        try:
            socket.create_connection((launch.address, launch.port), timeout=2.0).close()
            break
        except OSError as error:
            if isinstance(error, socket.gaierror):
                waiting.reason = f"processes: no address of MASTER_ADDR {launch.address!r} is known"
            _go_on_waiting(waiting, launch)
    made: list[Any] = []

    def make() -> None:
        try:
            made.append(
                distributed.TCPStore(  # type: ignore[attr-defined]
                    address, launch.port, launch.world, has_it, wait_for_workers=False, multi_tenant=has_it
                )
            )
        except RuntimeError as error:
            made.append(error)

    # What answers there may be no store, and the framework's own wait is silent and deaf to signals.
    making = threading.Thread(target=make, daemon=True)
    making.start()
    while making.is_alive():
        _go_on_waiting(waiting, launch)
    if isinstance(made[0], RuntimeError):
        raise made[0]
    return made[0]


def _go_on_waiting(waiting: Waiting, launch: Launch) -> None:
    if waiting.seconds > _MEETING:
        raise RunError(f"{waiting.reason} in {_MEETING:.0f} s; start all {launch.world} processes together; {_UNSET}")
    waiting.pause()


# ------------------------------------------------------------------------------------------ what the first does for all


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()  # noqa: SLF001 - the one that the group was made with


def first_does(work: Callable[[], _T]) -> _T:
    """Let the first process do some work, and return what came of it in all of them; its error is raised in all.

    work: gives what JSON can hold; what it lets the first process do in turn is part of it.  Every process must call
    it.  The others wait however long it takes, which no collective operation would do.

    >>> first_does(lambda: 7)
    7
    """
    if world_size() == 1 or _counted["depth"]:
        return work()
    _counted["calls"] += 1
    key, store = f"limbeck/first/{_counted['calls']}", _store()
    if is_first():
        _counted["depth"] += 1
        try:
            value = work()
        except BaseException as error:
            store.set(key, json.dumps(_told_of(error)))
            raise
        finally:
            _counted["depth"] -= 1
        store.set(key, json.dumps({"value": value}))
        return value
    waiting = Waiting(None)
    with all_there():
        while not store.check([key]):
            if (end := _end_of(0)) is not None:
                raise Lost(end["line"], end["code"])
            waiting.pause()
        told = json.loads(store.get(key))
    if "line" in told:
        raise _as_first(**told)
    return told["value"]  # type: ignore[no-any-return]


def first_says(value: _T) -> _T:
    """Return the first process's value in all of them, where each has one and they may differ in rounding.

    value: what JSON can hold.
    """
    return first_does(lambda: value)


@contextmanager
def held_by_first(path: Path, *, wait: bool, busy: str) -> Iterator[None]:
    """Hold a lock file for the scope: the first process does so for all, as `limbeck.locks.exclusive`."""
    with ExitStack() as stack:
        first_does(lambda: stack.enter_context(exclusive(path, wait=wait, busy=busy)))
        yield


# ------------------------------------------------------------------------------------------------------------- the end


def heed_launcher() -> None:
    """End with a line at SIGTERM, which a launcher sends to all other processes once one has ended.

    For the command line.  It is an error like others, and while this process ends already, the end of its waiting.
    """
    if world_size() == 1 or threading.current_thread() is not threading.main_thread():
        return

    def receive(number: int, _frame: Any) -> None:
        if not _ending["begun"]:
            raise Interrupted(f"interrupted by {signal.Signals(number).name}", number)
        _ending["hurried"] = True

    _ending.update(begun=False, hurried=False)
    signal.signal(signal.SIGTERM, receive)


class Lost(RunError):
    """Another process has ended, so that this one cannot go on."""

    def __init__(self, line: str, code: int = RunError.exit_code) -> None:
        super().__init__(line)
        self.exit_code = code


@contextmanager
def all_there() -> Iterator[None]:
    """Raise RunError, in place of what the framework says, where another process has ended within the scope."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or "gloo" in str(error) or "Connection closed" in str(error)
        if world_size() == 1 or not lost or isinstance(error, LimbeckError):
            raise
        _ending["begun"] = True
        raise Lost(
            "processes: another process of this training has ended; see what it said, and start all of them again"
        ) from None


def leave() -> None:
    """End well: the first process, which may hold the store that all of them read, stays until the others have left."""
    if world_size() == 1:
        return
    _ending["begun"] = True
    with suppress(RuntimeError):  # the store went with the first process
        _leave_the_store(range(world_size()))
    _counted["ends"] += 1


def _leave_the_store(ranks: Iterable[int]) -> None:
    """Say that this process reads the store no more; the first one waits until `ranks` have said so."""
    waiting, names = Waiting(None), [_name_of("left", rank) for rank in ranks]
    _store().set(_name_of("left", own_rank()), "")
    while is_first() and not _store().check(names) and waiting.seconds < _GRACE and not _ending["hurried"]:
        waiting.pause()


def end_together(error: LimbeckError, say: Callable[[str], None]) -> int:
    """Say why this process ends, where that is its part, and return the exit code that all processes end with.

    Of several processes the first says the line; another one does where the first does not end as well.
    """
    line, code = str(error), error.exit_code
    if world_size() == 1:
        say(line)
        return code
    _ending["begun"] = True
    own, lost = distributed.get_rank(), isinstance(error, Lost)
    others = [rank for rank in range(world_size()) if rank != own]
    ends: dict[int, Any] = {}
    if own == 0 and not lost:
        say(line)
    with suppress(RuntimeError):  # the store went with the first process, or with the launcher
        _store().set(_name_of("end", own), json.dumps({"line": line, "code": code, "lost": lost}))
        ends = _ends(others if own == 0 else [0])
        _leave_the_store(ends)
    _counted["ends"] += 1
    first_to_fail = next(((rank, end) for rank, end in sorted(ends.items()) if not end["lost"]), None)
    if lost and first_to_fail is not None:
        rank, end = first_to_fail
        line, code = f"process {rank}: {end['line']}", end["code"]
    silent = own != 0 and 0 not in ends  # the first has not said it, and does so no more
    if (own == 0 and lost) or (silent and (not lost or own == 1)):
        say(line if own == 0 else f"process {own}: {line}")
    return code


def _ends(ranks: list[int]) -> dict[int, Any]:
    """Return how other processes have ended, of those that do so in a few seconds."""
    waiting = Waiting(None)
    while True:
        ends = {rank: end for rank in ranks if (end := _end_of(rank)) is not None}
        if len(ends) == len(ranks) or waiting.seconds > _GRACE or _ending["hurried"]:
            return ends
        waiting.pause()


def _name_of(what: str, rank: int) -> str:
    """Return under which name a process leaves word of the end of a command: each command has names of its own."""
    return f"limbeck/{what}/{_counted['ends']}/{rank}"


def _end_of(rank: int) -> dict[str, Any] | None:
    store, key = _store(), _name_of("end", rank)
    return json.loads(store.get(key)) if store.check([key]) else None


def _told_of(error: BaseException) -> dict[str, Any]:
    """Return what the others need to raise an error of the first process."""
    code = error.exit_code if isinstance(error, LimbeckError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    line = error.found if isinstance(error, UnwrittenError) else str(error)
    return {"error": type(error).__name__, "line": line, "code": code}


def _as_first(error: str, line: str, code: int) -> LimbeckError:
    """Return the error that the first process had, as this one raises it."""
    if error == Interrupted.__name__:
        return Interrupted(line, code - 128)
    kind = getattr(errors, error, None)
    if isinstance(kind, type) and issubclass(kind, LimbeckError):
        return kind(line)
    return Lost(f"processes: the first one has ended ({error}: {line})", code)


# ---------------------------------------------------------------------------------------------------------------- rows


def same_in_all(module: nn.Module, *, parameters: bool = True) -> None:
    """Give a module in all processes the first one's parameters and buffers.

    Statistics of batches, which each process has of its own part, are the only ones that can differ.
    parameters: False for the buffers alone.
    """
    if world_size() == 1:
        return
    for tensor in (*(module.parameters() if parameters else ()), *module.buffers()):
        own = tensor.detach()
        whole = own.contiguous()  # in another memory format there is no broadcast
        if distributed.get_backend() == "nccl" and not whole.is_cuda:
            whole = whole.cuda()
        distributed.broadcast(whole, 0)
        if whole is not own and whole.data_ptr() != own.data_ptr():
            own.copy_(whole)


def in_any(here: bool) -> bool:
    """Return whether something is so in any of the processes; every process must call it.

    >>> in_any(False)
    False
    """
    if world_size() == 1:
        return here
    flag = torch.tensor(int(here), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(flag)
    return bool(flag)


def all_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes (N, ...), in the order of their ranks, those of this one with their gradient.

    rows: (n, ...), n being any number on each process, also 0.  Every process must call it.

    >>> all_rows(torch.tensor([[1.0], [2.0]])).shape
    torch.Size([2, 1])
    """
    world = world_size()
    if world == 1:
        return rows
    if distributed.get_backend() == "nccl" and not rows.is_cuda:
        return all_rows(rows.cuda()).to(rows.device)
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world)]
    distributed.all_gather(sizes, size)
    counts = [int(each) for each in sizes]
    padded = rows.detach().new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[distributed.get_rank()] = rows
    return torch.cat(parts)
