"""How large stores of a teacher's answers are, how fast they are built, and how fast their answers are read.

Of 100 classes with as many samples as CIFAR-100, and of a vocabulary of 128,256 tokens.  A row is one answer.  "read"
is what a training sees: the answers of a batch of 4,096 as tensors, from files that the system has in memory; checksums
are compared at the first opening, which is timed apart.  "build" asks one linear layer: what is timed is the encoding.

    python benchmarks/stores.py [--rounds N] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import limbeck as lb
from limbeck.batch import Batch
from limbeck.cache import (
    AnyEncoding,
    CachedTeacher,
    DenseEncoding,
    Order,
    QuantizedEncoding,
    SampledEncoding,
    TopKEncoding,
)
from limbeck.cache.build import write_rows
from limbeck.cache.encodings import RowNames
from limbeck.cache.format import Key
from limbeck.cache.plan import input_digest, planned
from limbeck.outputs import Outputs

_BATCH = 4096
_ENCODINGS: dict[str, AnyEncoding] = {
    "dense fp32": DenseEncoding(),
    "dense fp16": DenseEncoding("fp16"),
    "4 bits": QuantizedEncoding(bits=4),
    "top 16 at 1 and 4": TopKEncoding(k=16, temperatures=(1.0, 4.0)),
    "12 draws": SampledEncoding(),
}
_LARGE: dict[str, AnyEncoding] = {"top 64": TopKEncoding(k=64), "12 draws": SampledEncoding()}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _batches(samples: Any, order: torch.Tensor) -> list[Batch]:
    """Return batches that a teacher which looks answers up is asked with; their inputs do not matter."""
    zero = torch.zeros(1)
    return [
        Batch(index=part, view=torch.zeros_like(part), inputs=zero.expand(len(part)), source=samples.source)
        for part in order.split(_BATCH)
    ]


def _read(teacher: CachedTeacher, batches: list[Batch]) -> None:
    for batch in batches:
        answer = teacher(batch)
        (answer.logits if answer.sparse is None else answer.sparse.ids)[0, 0].item()


def _figures(folder: Path, samples: Any, classes: int, build: float, built: int, rounds: int) -> dict[str, Any]:
    opened = CachedTeacher(folder)
    count = len(samples)
    check = _seconds(lambda: opened.store.check(0))
    rates = {}
    for name, order in (("in order", torch.arange(count)), ("at random", torch.randperm(count))):
        batches = _batches(samples, order)
        _read(opened, batches[:2])
        rates[name] = count / statistics.median(_seconds(lambda: _read(opened, batches)) for _ in range(rounds))  # noqa: B023
    stride = opened.store.header.row.stride
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "bytes_a_row": stride,
        "share_of_dense": stride / (4 * classes),
        "bytes": size,
        "build_rows_a_second": built / build,
        "check_bytes_a_second": size / check,
        "read_rows_a_second": rates,
    }


def _small(encoding: AnyEncoding, folder: Path, rounds: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    samples = lb.data.TensorSet.of(
        torch.randn(50_000, 32, generator=draw), torch.randint(100, (50_000,), generator=draw), classes=100
    )
    net = nn.Linear(32, 100)
    build = _seconds(lambda: lb.store(net, samples, path=folder, encoding=encoding))
    return _figures(folder, samples, 100, build, len(samples), rounds)


def _large(encoding: AnyEncoding, folder: Path, rounds: int, rows: int = 400_000, encoded: int = 512) -> dict[str, Any]:
    """Return the figures of a vocabulary of 128,256 tokens: some rows are encoded, and repeated to many."""
    classes = 128_256
    samples = lb.data.TensorSet.of(torch.zeros(rows, 1), torch.zeros(rows, dtype=torch.int64), classes=classes)
    logits = torch.randn(encoded, classes, generator=torch.Generator().manual_seed(0)) * 2
    names = RowNames(*(torch.arange(encoded) for _ in range(3)), seed=0)
    found: dict[str, torch.Tensor] = {}
    build = _seconds(lambda: found.update(encoding.encode(Outputs(logits), names)))
    key = Key("benchmark", samples.source, input_digest(samples), "", False, None)
    header, arrays = planned(Order(samples, encoding), key, classes=classes)
    part = header.row.pack({name: value.numpy() for name, value in found.items()})
    write_rows(folder, header, arrays, np.tile(part, (-(-rows // encoded), 1))[:rows], (0,))
    return _figures(folder, samples, classes, build, encoded, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    found: list[dict[str, Any]] = []
    print("| classes | encoding | bytes a row | of dense fp32 | built, rows/s | read in order | read at random |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for classes, encodings, measure in ((100, _ENCODINGS, _small), (128_256, _LARGE, _large)):
        for name, encoding in encodings.items():
            with tempfile.TemporaryDirectory() as folder:
                figures = measure(encoding, Path(folder) / "store", options.rounds)
            rates = figures["read_rows_a_second"]
            row = [f"{classes:,}", name, f"{figures['bytes_a_row']:,}", f"{100 * figures['share_of_dense']:.3g} %"]
            row += [f"{figures['build_rows_a_second']:,.0f}", f"{rates['in order']:,.0f}", f"{rates['at random']:,.0f}"]
            print(f"| {' | '.join(row)} |", flush=True)
            found.append({"classes": classes, "encoding": name, **figures})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
