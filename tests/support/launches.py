"""Processes that are forked from the tests' own, so that they need not load anything: one, or a launch of several."""

import os
import random
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from limbeck import ranks
from limbeck.errors import LimbeckError


def free_port():
    """Return a port that nothing listens at, below those that the system hands out, so that none takes it meanwhile."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(min(10_000, first - 1_000), first)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def place(rank, world, port):
    """Return the variables by which a launcher tells a process of its place."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    fixed = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return {name: str(value) for name, value in names.items()} | fixed


def take_place(rank, world, port):
    """Make this forked process one of a launch; what the tests' process knew of its devices is forgotten."""
    os.environ |= place(rank, world, port)
    AcceleratorState._reset_state(reset_partial_state=True)


def forked(work, stderr=None):
    """Start a process in which `work()` is done, and return its id; an error gives a traceback and an exit code.

    stderr: the file that its stderr is written to; None for that of the tests.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        if stderr is not None:
            os.dup2(os.open(stderr, os.O_CREAT | os.O_WRONLY), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - pytest's own is not this file
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            signal.signal(number, handler)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the child must not go on as a second pytest
        traceback.print_exc()
        code = error.exit_code if isinstance(error, LimbeckError) else code
    finally:
        os._exit(code)


def end_of(child):
    """Wait for a process and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def together(work, world, folder):
    """Do `work(rank)` in the processes of a launch, and require that all end well; their stderr is in the folder."""
    port = free_port()

    def launched(rank):
        take_place(rank, world, port)
        warnings.simplefilter("default")
        work(rank)
        ranks.leave()

    files = [folder / f"stderr {rank}.txt" for rank in range(world)]
    children = [forked(partial(launched, rank), file) for rank, file in enumerate(files)]
    codes = [end_of(child) for child in children]
    assert codes == [0] * world, (codes, [file.read_text()[-3000:] for file in files])
