"""The loss of distillation on logits, side by side: limbeck, plain and compiled formulas, and other libraries.

    python benchmarks/losses.py [--rounds 9] [--threads 2] [--only 10 32000] [--device cuda] [--peers FOLDER]
        [--json FILE]

Forward and backward of 0.1·H(y, q) + 0.9·T²·KL at T = 4, float32, from logits of 512 rows (128 at 128,256 classes):

eager: the four lines that tutorials write, with `F.kl_div` and `F.cross_entropy`.
compiled: the same under torch.compile.
plain: `losses.kd(..., backend="plain")`, the formulas that prove the others.
limbeck: `losses.kd`, as it chooses; on a processor with a C compiler its kernel in C, for large logits.
limbeck, tiles: the same without a compiler.
limbeck, top 64 / sampled 12: the same against stored answers.
floor: reading two tensors and writing a third of the same size (`torch.add(a, b, out=c)`).

The other libraries' losses run if their packages are found, in a folder of their own that nothing else sees:

    pip install --no-deps --target FOLDER torchdistill liger-kernel trl datasets dill multiprocess xxhash pandas \\
        python-dateutil pytz tzdata six

torchdistill: `KDLoss`, the same loss (its alpha on the labels).  TRL: `generalized_jsd_loss`, JSD at β = ½ alone,
beside limbeck's `losses.js`.  Liger: `LigerFusedLinearJSDLoss`, not compiled, beside limbeck's `fused_linear_kd` with
the same divergence, from hidden states of 64 numbers.  (torchtune 0.6.1 does not import with a torchao of today.)

Ways take turns within a round.  Figures are medians over rounds; a ratio is the median of the ratios within rounds.
Seconds of the clock and of the processor are written: where other processes are busy, the latter say more.  Memory is
the growth of the process beyond its inputs at its peak, in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import limbeck as lb
from limbeck.losses.fused import Hard, Soft, joint
from limbeck.losses.sparse import Sampled, TopK
from measuring import growth_of, machine

TEMPERATURE, ALPHA = 4.0, 0.1
SIZES = {10: 512, 100: 512, 1000: 512, 32_000: 512, 128_256: 128}
AIMS = {
    32_000: [("limbeck", "eager", 1 / 8), ("limbeck", "compiled", 1 / 1.5), ("limbeck, top 64", "limbeck", 1 / 2)],
    **{classes: [("limbeck", "eager", 1.0)] for classes in (10, 100, 1000)},
}
Way = Callable[[], Tensor]


def eager(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the loss as tutorials write it."""
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, -1), F.softmax(teacher / TEMPERATURE, -1), reduction="batchmean"
    )
    return ALPHA * F.cross_entropy(student, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft


def ways(classes: int, device: str, peers: str | None) -> tuple[dict[str, Way], Tensor]:
    """Return what computes the loss by name, and the student's logits."""
    generator = torch.Generator().manual_seed(0)
    rows = SIZES[classes]
    student, teacher = (3 * torch.randn(rows, classes, generator=generator).to(device) for _ in range(2))
    labels = torch.randint(classes, (rows,), generator=generator).to(device)
    student.requires_grad_()
    room = torch.empty_like(teacher)
    compiled = torch.compile(eager)
    log_probs = F.log_softmax(teacher / TEMPERATURE, -1)
    largest, ids = log_probs.topk(min(64, classes))
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    drawn = torch.multinomial(log_probs.exp(), 12, replacement=True)
    entropy = -(log_probs.exp() * log_probs).sum(-1)

    def sparse(target: TopK | Sampled) -> Tensor:
        parts = [Hard(labels, ALPHA, mean=True), Soft(target, TEMPERATURE, coefficient=1 - ALPHA, mean=True)]
        return joint(student, parts)[0]

    found: dict[str, Way] = {
        "eager": lambda: eager(student, teacher, labels),
        "compiled": lambda: compiled(student, teacher, labels),
        "plain": lambda: lb.losses.kd(student, teacher, labels, temperature=TEMPERATURE, alpha=ALPHA, backend="plain"),
        "limbeck": lambda: lb.losses.kd(student, teacher, labels, temperature=TEMPERATURE, alpha=ALPHA),
        "limbeck, tiles": lambda: lb.losses.kd(
            student, teacher, labels, temperature=TEMPERATURE, alpha=ALPHA, backend="eager"
        ),
        "limbeck, top 64": lambda: sparse(TopK(ids, largest, rest)),
        "limbeck, sampled 12": lambda: sparse(Sampled(drawn, entropy)),
        "limbeck, JSD alone": lambda: lb.losses.js(student, teacher),
        "floor": lambda: torch.add(student.detach(), teacher, out=room),
    }
    if peers is not None:
        sys.path.append(peers)
        found |= of_peers(student, teacher, labels)
    return found, student


def of_peers(student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Way]:
    """Return the losses of other libraries that can be imported."""
    found: dict[str, Way] = {}
    try:
        from torchdistill.losses.mid_level import KDLoss

        paths = ("model", "output", "model", "output")
        loss = KDLoss(*paths, temperature=TEMPERATURE, alpha=ALPHA, reduction="batchmean")
        modules = {"model": {"output": student}}, {"model": {"output": teacher}}
        loss(*modules, labels)
        found["torchdistill"] = lambda: loss(*modules, labels)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from running is said
        print(f"torchdistill does not run here: {error!r}"[:200], file=sys.stderr)
    try:
        from trl.experimental.gkd.gkd_trainer import GKDTrainer

        jsd = GKDTrainer.generalized_jsd_loss
        jsd(student[None], teacher[None], labels[None], beta=0.5)
        found["TRL, JSD alone"] = lambda: jsd(student[None], teacher[None], labels[None], beta=0.5)
    except Exception as error:  # noqa: BLE001
        print(f"TRL does not run here: {error!r}"[:200], file=sys.stderr)
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        classes = student.shape[1]
        hidden, other = (torch.randn(len(student), 64, device=student.device) for _ in range(2))
        weight, its = (torch.randn(classes, 64, device=student.device) / 8 for _ in range(2))
        hidden.requires_grad_()
        weight.requires_grad_()
        liger = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=False)
        liger(hidden, weight, other, its, labels)
        found["Liger, last layer"] = lambda: liger(hidden, weight, other, its, labels)
        jsd_half = lb.losses.jensen_shannon(0.5)
        found["limbeck, last layer"] = lambda: lb.losses.fused_linear_kd(
            (hidden, weight), (other, its), temperature=1.0, soft_weight=1.0, divergence=jsd_half
        )
    except Exception as error:  # noqa: BLE001
        print(f"Liger does not run here: {error!r}"[:200], file=sys.stderr)
    return found


def run(way: Way, student: Tensor) -> None:
    student.grad = None
    loss = way()
    if loss.requires_grad:
        loss.backward()
    if student.is_cuda:
        torch.cuda.synchronize()


def measured(options: argparse.Namespace, classes: int) -> dict[str, dict[str, list[float]]]:
    """Run the rounds of a size."""
    found, student = ways(classes, options.device, options.peers)
    calls = max(1, 4_000_000 // (SIZES[classes] * classes))
    seconds: dict[str, dict[str, list[float]]] = {name: {"clock": [], "processor": []} for name in found}
    for way in found.values():
        run(way, student)
        run(way, student)
    names = list(found)
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            clock, processor = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run(found[name], student)
            seconds[name]["clock"].append((time.perf_counter() - clock) / calls)
            seconds[name]["processor"].append((time.process_time() - processor) / calls)
    return seconds


def memory(classes: int, name: str, options: argparse.Namespace) -> int:
    """Return by how many bytes a process grows at its peak, beyond inputs and imports."""
    command = [sys.executable, __file__, "--grows", str(classes), name, "--threads", str(options.threads)]
    command += [] if options.peers is None else ["--peers", options.peers]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def grows(classes: int, name: str, options: argparse.Namespace) -> None:
    """Print the largest growth of the resident memory that a look every half millisecond sees."""
    found, student = ways(classes, "cpu", options.peers)
    small = student[:1].detach().clone().requires_grad_()
    eager(small, small.detach().clone(), torch.zeros(1, dtype=torch.int64)).backward()  # what is made once
    print(growth_of(lambda: run(found[name], student)))


def main() -> None:
    """Run the sizes, and print and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--grows", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.grows:
        grows(int(options.grows[0]), options.grows[1], options)
        return
    content: dict[str, object] = {}
    for classes in options.only:
        before = os.getloadavg()
        seconds = measured(options, classes)
        kept = {}
        if classes >= 32_000 and options.device == "cpu":
            kept = {name: memory(classes, name, options) for name in seconds if name not in ("compiled", "floor")}
        aims = [judged(seconds, *aim) for aim in AIMS.get(classes, [])]
        print(markdown(classes, seconds, kept, aims), flush=True)
        content[str(classes)] = {"seconds": seconds, "memory": kept, "aims": aims, "load": [before, os.getloadavg()]}
    content["options"] = {"rounds": options.rounds, "threads": options.threads, "device": options.device}
    content["machine"] = machine(options.threads) | {"vectors": torch.backends.cpu.get_cpu_capability()}
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def judged(seconds: dict[str, dict[str, list[float]]], above: str, below: str, aim: float) -> dict[str, object]:
    """Return a ratio by both clocks, beside its aim."""
    row: dict[str, object] = {"ratio": f"{above} / {below}", "aim": aim}
    for kind in ("clock", "processor"):
        pairs = zip(seconds[above][kind], seconds[below][kind], strict=True)
        row[kind] = statistics.median(first / second for first, second in pairs)
    row["met"] = row["clock"] <= aim  # type: ignore[operator]
    return row


def markdown(
    classes: int, seconds: dict[str, dict[str, list[float]]], kept: dict[str, int], aims: list[dict[str, object]]
) -> str:
    """Return the tables of a size."""
    floor = statistics.median(seconds["floor"]["clock"])
    lines = [f"## {SIZES[classes]} x {classes:,}", ""]
    lines += ["| loss, forward and backward | ms | least to most | processor, ms | share of floor | grows by, MB |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, found in seconds.items():
        clock, processor = (statistics.median(found[kind]) for kind in ("clock", "processor"))
        grown = f"{kept[name] / 1e6:.0f}" if name in kept else ""
        lines.append(
            f"| {name} | {1e3 * clock:.3g} | {1e3 * min(found['clock']):.3g} to {1e3 * max(found['clock']):.3g} |"
            f" {1e3 * processor:.3g} | {floor / clock:.2f} | {grown} |"
        )
    if aims:
        lines += ["", "| ratio | clock | processor | aim: at most | met |", "|---|---|---|---|---|"]
    for aim in aims:
        yes = "yes" if aim["met"] else "no"
        lines.append(f"| {aim['ratio']} | {aim['clock']:.3f} | {aim['processor']:.3f} | {aim['aim']:.3f} | {yes} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
