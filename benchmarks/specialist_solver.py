"""How fast the answering rule of generalist and specialists is solved, and how well, on invented outputs.

100 classes, 10 sets of 15 that overlap, 3 of them active in each example; generalist and specialists see the same
logits with noise of their own, from flat to so sharp that most probabilities underflow in float32.  The time includes
everything from float32 outputs to certified log q; processor time is given beside it, for machines that are shared.
Plain EM is run too, for the share of examples that it brings to the same certificate in a hundred and in a thousand
steps.

    python benchmarks/specialist_solver.py [--rounds N] [--threads N] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.teachers.specialists import CERTIFIED, answer

_CLASSES, _SETS, _SIZE, _ACTIVE = 100, 10, 15, 3
_EXAMPLES = 50_000
_KINDS = {"flat": (1.0, 0.5), "usual": (3.0, 1.0), "sharp": (8.0, 3.0), "underflowing": (60.0, 20.0)}


def _drawn(scale: float, noise: float) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randperm(_CLASSES, generator=generator)[:_SIZE].sort().values for _ in range(_SETS)]
    logits = scale * torch.randn(_EXAMPLES, _CLASSES, generator=generator)
    specialists = []
    for group in groups:
        own = logits + noise * torch.randn(_EXAMPLES, _CLASSES, generator=generator)
        rest = torch.ones(_CLASSES, dtype=torch.bool)
        rest[group] = False
        specialists.append(torch.cat([own[:, group], own[:, rest].logsumexp(1, keepdim=True)], 1))
    chosen = torch.rand(_EXAMPLES, _SETS, generator=generator).topk(_ACTIVE, 1).indices
    return logits, specialists, groups, torch.zeros(_EXAMPLES, _SETS, dtype=torch.bool).scatter_(1, chosen, True)


def _em(logits: Tensor, specialists: list[Tensor], groups: list[Tensor], active: Tensor) -> dict[str, float]:
    """Return the share of the first 2,000 examples that EM certifies after 100 and after 1,000 steps."""
    size = 2000
    p = logits[:size].double().softmax(1)
    on = active[:size].double()
    inside = torch.zeros(len(groups), p.shape[1], dtype=torch.float64)
    wanted, bins = p.clone(), []
    for number, (outputs, group) in enumerate(zip(specialists, groups, strict=True)):
        told = outputs[:size].double().softmax(1)
        inside[number, group] = 1
        wanted[:, group] += on[:, number : number + 1] * told[:, :-1]
        bins.append(on[:, number] * told[:, -1])
    bin_, outside, q = torch.stack(bins, 1), 1 - inside, wanted / wanted.sum(1, keepdim=True)
    found = {}
    for step in range(1, 1001):
        left = (q @ outside.T).clamp_min(1e-300)
        slopes = wanted / q.clamp_min(1e-300) + (bin_ / left) @ outside
        if step in (100, 1000):
            found[f"{step} steps"] = float((slopes.amax(1) - 1 - _ACTIVE <= CERTIFIED).double().mean())
        q = q * slopes / (1 + _ACTIVE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    for name, (scale, noise) in _KINDS.items():
        drawn = _drawn(scale, noise)
        seconds, processor = [], []
        for _ in range(options.rounds):
            began, ticks = time.perf_counter(), time.process_time()
            solved = answer(*drawn)
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - ticks)
        speed, own = _EXAMPLES / statistics.median(seconds), _EXAMPLES / statistics.median(processor)
        gap, em = float(solved.gap.max()), _em(*drawn)
        shares = ", ".join(f"{steps} {share:.1%}" for steps, share in em.items())
        print(
            f"{name:<13} {speed:>9,.0f} examples/s, {own:>9,.0f} a second of processor time (medians), gap {gap:.1e};"
        )
        print(f"{'':<13} certified by EM: {shares}")
        found[name] = {
            "examples_per_second": speed,
            "examples_per_processor_second": own,
            "gap": gap,
            "em_certified": em,
            "seconds": seconds,
            "processor_seconds": processor,
        }
    machine = {"threads": options.threads, "torch": torch.__version__, "machine": platform.machine()}
    if options.json:
        setting = {"examples": _EXAMPLES, "classes": _CLASSES, "sets": _SETS, "set": _SIZE, "active": _ACTIVE}
        options.json.write_text(json.dumps({"setting": setting, "kinds": found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
