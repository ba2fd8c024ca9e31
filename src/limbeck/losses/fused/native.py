"""The compiled back end: rows of logits on a processor by a kernel in C, which a compiler makes once for a machine."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, RunError, one_line
from limbeck.losses.fused.parts import Hard, Part, Soft
from limbeck.losses.fused.threads import shared
from limbeck.losses.fused.tiles import tiled
from limbeck.losses.sparse import Sampled, TopK
from limbeck.own import cache_folder, require_own

__all__ = ["native", "require_native", "why_not_native"]

_SOURCE = Path(__file__).with_name("rows.c")
_COMPILERS = ("cc", "gcc", "clang")
_OPTIONS = ("-O2", "-funroll-loops", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno")
_SECONDS = 120
_LEAST = 2**17  # numbers that are worth a thread
_PIECE = 2**22  # numbers of a teacher of another type that are made float32 at a time
_DENSE = {"kl": 1, "cross_entropy": 1, "reverse_kl": 2, "js": 3, "skewed_kl": 4, "total_variation": 5}
_SPARSE = {TopK: 6, Sampled: 7}
_POWERS = {1.0: 1, 2.0: 2, 4.0: 4}
_LOCK = [threading.Lock()]

if hasattr(os, "register_at_fork"):  # a thread that had it is not in a forked process
    os.register_at_fork(after_in_child=lambda: _LOCK.__setitem__(0, threading.Lock()))


class _Rows(ctypes.Structure):
    """What the kernel is handed; see `rows.c`.  Pointers are 0 for what there is not.

    some: how many classes a sparse target has.  gradient: the memory of the logits is allowed.  soft, hard: values
    (rows,).  room: 3 rows and `some` numbers of its own.  inverse: 1/T.  by_soft: of the derivative by logits/T.
    share: the divergence's β or a.
    """

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "classes", "kind", "entropies", "power", "some")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "logits",
                "teacher",
                "gradient",
                "labels",
                "ids",
                "log_probs",
                "log_tail",
                "soft_counts",
                "hard_counts",
                "soft",
                "hard",
                "room",
            )
        ),
        *((name, ctypes.c_float) for name in ("inverse", "by_soft", "by_hard", "share")),
    ]


def native(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    """Return the values (n,) of each part for rows of logits (n, K), as `tiled` does, and through it where need be.

    That is without a compiler, for other types than float32, for sparse targets by other divergences than KL and
    cross-entropy, and for rows whose value is infinite or undefined.
    """
    if not _fits(logits, parts, gradient) or (library := _library()) is None:
        return tiled(logits, parts, gradient)
    soft = next((part for part in parts if isinstance(part, Soft)), None)
    hard = next((part for part in parts if isinstance(part, Hard)), None)
    count, classes = logits.shape
    piece = max(1, _PIECE // classes)
    if soft is not None and count > piece and isinstance(soft.target, Tensor) and soft.target.dtype != torch.float32:
        pieces = []  # of a teacher that is made float32 first
        for start in range(0, count, piece):
            where = slice(start, start + piece)
            some = None if gradient is None else gradient[where]
            pieces.append(native(logits[where], [part.rows(where) for part in parts], some))
        return [torch.cat(values) for values in zip(*pieces, strict=True)]

    values = {id(part): _empty(count) for part in parts}
    held = list(values.values()) if gradient is None else [*values.values(), gradient]

    def at(tensor: Tensor | None, dtype: torch.dtype = torch.float32) -> int:
        if tensor is None:
            return 0
        held.append(tensor.to(dtype).contiguous())
        return held[-1].data_ptr()

    rows = _Rows(classes=classes, inverse=1.0, power=1)
    rows.logits, rows.gradient = at(logits), 0 if gradient is None else gradient.data_ptr()
    if soft is not None:
        target = soft.target
        rows.kind, rows.inverse, rows.share = _kind(soft), 1.0 / soft.temperature, soft.divergence.share
        rows.entropies = 0 if soft.divergence.entropies == 0 else 1
        rows.by_soft = float(soft.coefficient) * (soft.factor / soft.temperature)
        rows.soft_counts, rows.soft = at(soft.mask, torch.uint8), values[id(soft)].data_ptr()
        rows.power = _POWERS.get(soft.temperature, 0)
        if isinstance(target, Tensor):
            rows.teacher = at(target)
        elif isinstance(target, TopK | Sampled):
            rows.some, rows.ids = target.ids.shape[-1], at(target.ids, torch.int64)
            if isinstance(target, TopK):
                rows.log_probs, rows.log_tail = at(target.log_probs), at(target.log_tail)
    if hard is not None:
        rows.labels, rows.by_hard = at(hard.labels, torch.int64), float(hard.coefficient)
        rows.hard_counts, rows.hard = at(hard.mask, torch.uint8), values[id(hard)].data_ptr()
    _run(library, rows, count, held)

    answers = list(values.values())
    wrong = torch.stack(answers).isfinite().all(0).logical_not_()
    if soft is not None:
        found = values[id(soft)]
        if isinstance(soft.target, Sampled):
            entropy = rows.entropies * soft.target.entropy.to(found.dtype)
            found -= entropy if soft.mask is None else torch.where(soft.mask, entropy, 0.0)
        found *= soft.factor
    if bool(wrong.any()):
        _again(logits, parts, gradient, wrong.nonzero().squeeze(-1), answers)
    return answers


def _empty(*sizes: int) -> Tensor:
    """Return memory as the kernel takes it, whatever torch makes by default."""
    return torch.empty(*sizes, dtype=torch.float32, device="cpu")


def _fits(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> bool:
    """Return whether the kernel can compute parts: one of soft targets and one of labels at most, in float32."""
    own = [logits] if gradient is None else [logits, gradient]
    soft = [part for part in parts if isinstance(part, Soft)]
    if any(each.dtype != torch.float32 for each in own) or not logits.numel():
        return False
    if len(soft) > 1 or len(parts) - len(soft) > 1 or not all(_kind(each) for each in soft):
        return False
    if gradient is not None and not gradient.is_contiguous():
        return False
    if gradient is not None and gradient.data_ptr() == logits.data_ptr() and not logits.is_contiguous():
        return False
    return all(_in_memory(each) for each in (*own, *_tensors(parts)))


def _tensors(parts: Sequence[Part]) -> Iterator[Tensor]:
    """Yield all tensors that parts are made of."""
    for part in parts:
        found: list[Any] = [part.mask]
        if isinstance(part, Hard):
            found.append(part.labels)
        elif isinstance(part.target, TopK):
            found += [part.target.ids, part.target.log_probs, part.target.log_tail]
        elif isinstance(part.target, Sampled):
            found += [part.target.ids, part.target.entropy]
        else:
            found.append(part.target)
        yield from (each for each in found if each is not None)


def _in_memory(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers lie in the processor's memory as they are, and not in a subclass's own way."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and not tensor.is_neg()


def _kind(part: Soft) -> int:
    """Return the number of a divergence and its target in the kernel; 0 of one that it does not compute."""
    target, kind = part.target, part.divergence.kind
    if not isinstance(target, Tensor):
        return _SPARSE.get(type(target), 0) if part.divergence.entropies is not None else 0
    mixed = kind in ("js", "skewed_kl")
    return 0 if target.dtype == torch.float64 or (mixed and not 0 < part.divergence.share < 1) else _DENSE.get(kind, 0)


def _run(library: ctypes.CDLL, rows: _Rows, count: int, held: Sequence[Tensor]) -> None:
    """Let threads compute rows, each its own.

    held: what the kernel reads and writes.  Threads hold it too: they go on when the caller is interrupted.
    """
    threads = max(1, min(torch.get_num_threads(), count, count * rows.classes // _LEAST))
    room = _empty(threads, 3 * rows.classes + rows.some)
    share = -(-count // threads)
    wide = 4 * rows.classes
    steps = {"logits": wide, "teacher": wide, "gradient": wide, "labels": 8, "ids": 8 * rows.some}
    steps |= {"log_probs": 4 * rows.some, "log_tail": 4, "soft_counts": 1, "hard_counts": 1, "soft": 4, "hard": 4}

    def work(thread: int, _: Sequence[Tensor] = (room, *held)) -> None:
        first = thread * share
        mine = _Rows.from_buffer_copy(rows)
        mine.rows = max(0, min(share, count - first))
        for name, step in steps.items():
            start = getattr(rows, name)
            setattr(mine, name, start + first * step if start else None)
        mine.room = room[thread].data_ptr()
        library.limbeck_rows(ctypes.byref(mine))

    shared(work, threads)


def _again(
    logits: Tensor, parts: Sequence[Part], gradient: Tensor | None, where: Tensor, answers: Sequence[Tensor]
) -> None:
    """Compute some rows in tiles, which know infinite values; the kernel has left their logits and gradient alone."""
    some = None if gradient is None else gradient.new_empty(len(where), logits.shape[1])
    for answer, value in zip(answers, tiled(logits[where], [part.rows(where) for part in parts], some), strict=True):
        answer[where] = value
    if gradient is not None and some is not None:
        gradient[where] = some


def require_native(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> None:
    """Require that the kernel computes parts by itself; InputError in one line where it does not."""
    reason = why_not_native()
    if reason is None and logits.numel() and not _fits(logits, parts, gradient):
        reason = "it takes one target beside labels, float32, on a processor; a sparse one by KL or cross-entropy"
    if reason is not None:
        raise InputError(f"backend: found 'native', but {reason}; use eager or auto")


def why_not_native() -> str | None:
    """Return why there is no kernel on this machine; None where there is one."""
    return None if _library() is not None else _made()[1]


def _library() -> ctypes.CDLL | None:
    with _LOCK[0]:
        return _made()[0]


@functools.cache
def _made() -> tuple[ctypes.CDLL | None, str | None]:
    """Return the kernel, made if need be; or why there is none."""
    if os.environ.get("LIMBECK_NATIVE") == "0":
        return None, "LIMBECK_NATIVE is 0"
    if os.name != "posix":
        return None, "it is made on Linux and macOS alone"
    found = [shutil.which(name) for name in (os.environ.get("CC"), *_COMPILERS) if name]
    compiler = next((each for each in found if each), None)
    if compiler is None:
        return None, "there is no C compiler (cc, gcc or clang)"
    try:
        top = cache_folder()
        path = top / "kernels" / f"rows-{_key(compiler)}.so"
        require_own(path.parent, top)
        library = _loaded(compiler, path)
    except (OSError, AttributeError, UnicodeError, RunError, subprocess.SubprocessError) as error:
        return None, f"the C compiler's kernel cannot be used ({one_line(error)})"
    return (library, None) if _right(library) else (None, "what the C compiler made computes another loss")


def _key(compiler: str) -> str:
    """Return what a kernel depends on, as a name: its source, the compiler, the system's libraries, the processor."""
    itself = Path(compiler).resolve()
    made = itself.stat()
    about = [_SOURCE.read_text(encoding="utf-8"), str(itself), str(made.st_size), str(made.st_mtime_ns), *_OPTIONS]
    about += [platform.system(), platform.machine(), platform.processor(), *platform.libc_ver()]
    try:
        known = ("model name", "flags", "features", "cpu implementer", "cpu part")
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        about += dict.fromkeys(line for line in lines if line.lower().startswith(known))
    except OSError:
        pass
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]


def _loaded(compiler: str, path: Path) -> ctypes.CDLL:
    """Load a kernel, made anew where there is none or where it cannot be loaded."""
    try:
        library = ctypes.CDLL(str(path)) if path.exists() else None
    except OSError:
        path.unlink(missing_ok=True)
        library = None
    if library is None:
        _compile(compiler, path)
        library = ctypes.CDLL(str(path))
    try:
        library.limbeck_rows.argtypes, library.limbeck_rows.restype = [ctypes.c_void_p], None
    except AttributeError:
        path.unlink(missing_ok=True)  # another process makes it anew: in this one its name stands for what was loaded
        raise
    return library


def _compile(compiler: str, path: Path) -> None:
    """Write a kernel, for this very processor where the compiler knows how; what another process writes alike stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arm = platform.machine().lower() in ("arm64", "aarch64")
    failed: subprocess.SubprocessError | None = None
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        aside = Path(place) / path.name
        for own in (["-mcpu=native" if arm else "-march=native"], []):
            command = [compiler, *_OPTIONS, *own, str(_SOURCE), "-o", str(aside), "-lm"]
            try:
                subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
            except subprocess.SubprocessError as error:
                failed = error
                continue
            if not path.exists():
                aside.replace(path)
            return
    assert failed is not None
    raise failed


def _right(library: ctypes.CDLL) -> bool:
    """Return whether a kernel computes what the formulas do, for a few rows of an odd number of classes."""
    steps = torch.arange(111, dtype=torch.float32, device="cpu")
    logits, teacher = (steps / 8 - 9).sin().mul(6).view(3, 37), (steps / 12).cos().view(3, 37)
    found, gradient = _empty(3), _empty(3, 37)
    rows = _Rows(classes=37, kind=1, entropies=1, inverse=0.5, by_soft=1.0)
    rows.logits, rows.teacher, rows.gradient = logits.data_ptr(), teacher.data_ptr(), gradient.data_ptr()
    rows.soft = found.data_ptr()
    _run(library, rows, 3, (logits, teacher, found, gradient))
    log_q, log_p = (logits / 2).log_softmax(-1), (teacher / 2).log_softmax(-1)
    value, slope = (log_p.exp() * (log_p - log_q)).sum(-1), log_q.exp() - log_p.exp()
    return torch.allclose(found, value, 1e-4, 1e-5) and torch.allclose(gradient, slope, 1e-4, 1e-6)
