"""What a student of small stored answers loses against one of dense answers: CIFAR-100, reduced, paired by seed.

    LIMBECK_DATA=DIR python benchmarks/sparse_teachers.py [--images 10000] [--epochs 12] [--seeds 6] [--json FILE]

Teacher: cnn of 64, 128 and 128 channels, 15 epochs on labels.  Student: cnn of 16, 32 and 64 channels, `kd` at T = 4.
Each seed has one start and one order for all encodings.  The first `--images` training images, without augmentation;
all 10,000 test images, read once at the end.  The difference is the mean over seeds of accuracy less that with dense
answers, with Student's 95 % interval.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

import limbeck as lb
from limbeck.cache import DenseEncoding, QuantizedEncoding, SampledEncoding, TopKEncoding
from limbeck.evaluation import t_interval

TEMPERATURE = 4.0
ENCODINGS = {
    "dense fp32": DenseEncoding("fp32"),
    "4 bits": QuantizedEncoding(bits=4),
    "3 bits": QuantizedEncoding(bits=3),
    "top 16": TopKEncoding(k=16, temperatures=(TEMPERATURE,)),
    "top 4": TopKEncoding(k=4, temperatures=(TEMPERATURE,)),
    "12 draws": SampledEncoding(draws=12, temperature=TEMPERATURE),
}


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = lb.data.cifar100(str(Path(os.environ["LIMBECK_DATA"]) / "cifar-100"))
    train = splits.train.subset(torch.arange(options.images))
    rate = {"batch_size": 128, "learning_rate": 0.05, "schedule": "cosine"}
    torch.manual_seed(0)
    teacher = lb.models.cnn((3, 32, 32), 100, channels=(64, 128, 128))
    lb.fit(teacher, train, method=lb.methods.hard(), epochs=15, seed=0, **rate)
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, encoding in ENCODINGS.items():
            path = Path(folder) / name.replace(" ", "-")
            stored = lb.store(teacher, train, path=path, encoding=encoding)
            size = sum(each.stat().st_size for each in path.iterdir())
            accuracies, began = [], time.process_time()
            for seed in range(options.seeds):
                torch.manual_seed(seed)
                student = lb.models.cnn((3, 32, 32), 100, channels=(16, 32, 64))
                method = lb.methods.kd(TEMPERATURE)
                lb.fit(student, train, teacher=stored, method=method, epochs=options.epochs, seed=seed, **rate)
                accuracies.append(100 * lb.evaluate(student, splits.test).accuracy)
            rows[name] = {"bytes": size, "accuracies": accuracies, "seconds": time.process_time() - began}
            print(name, size, [round(each, 2) for each in accuracies], flush=True)
    dense = rows["dense fp32"]
    print(f"\nteacher {100 * lb.evaluate(teacher, splits.test).accuracy:.2f} %\n")
    print("| answers | bytes, of dense | accuracy, % | less dense, points |\n|---|---|---|---|")
    for name, row in rows.items():
        own, others = row["accuracies"], dense["accuracies"]
        mean = t_interval(own)  # type: ignore[arg-type]
        gap = t_interval([a - b for a, b in zip(own, others, strict=True)])  # type: ignore[call-overload]
        row["difference"] = [gap.low, gap.mean, gap.high]
        text = "" if row is dense else f"{gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"
        share = row["bytes"] / dense["bytes"]  # type: ignore[operator]
        print(f"| {name} | {share:.1%} | {mean.mean:.2f} | {text} |")
    if options.json:
        content = {"rows": rows, "options": {key: value for key, value in vars(options).items() if key != "json"}}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
