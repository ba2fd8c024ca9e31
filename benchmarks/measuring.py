"""What benchmarks share: the machine in words, and the largest growth of the resident memory."""

import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import limbeck as lb

__all__ = ["growth_of", "machine"]


def machine(threads: int) -> dict[str, Any]:
    """Return the machine and the versions that figures were measured with."""
    return {
        "processors": os.cpu_count(),
        "threads": threads,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "limbeck": lb.__version__,
    }


def growth_of(work: Callable[[], object]) -> int:
    """Return the bytes by which a look every half millisecond sees the resident memory grow (Linux)."""
    before, seen, ended = _resident(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.0005):
            seen[0] = max(seen[0], _resident() - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return max(seen[0], _resident() - before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
