"""Processes that are started as a launcher does: forked from the tests' process, or by a launcher's own command."""

import os
import socket
import sys
import traceback
import warnings

import torch
from accelerate.state import AcceleratorState


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def place(rank, world, port):
    """Return the variables by which a launcher tells a process of its place."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    fixed = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return {name: str(value) for name, value in names.items()} | fixed


def forked(work, rank, world, port, folder):
    """Start a process of several in which `work(rank)` is done; its stderr is a file of the folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.dup2(os.open(folder / f"stderr {rank}.txt", os.O_CREAT | os.O_WRONLY), 2)
        os.environ |= place(rank, world, port)
        torch.set_num_threads(1)
        warnings.simplefilter("default")
        AcceleratorState._reset_state(reset_partial_state=True)
        work(rank)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as a second pytest
        traceback.print_exc()
    finally:
        os._exit(code)


def together(work, world, folder):
    """Do `work(rank)` in several processes at once, and require that all end well."""
    port = free_port()
    children = [forked(work, rank, world, port, folder) for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * world, [(folder / f"stderr {rank}.txt").read_text()[-3000:] for rank in range(world)]
