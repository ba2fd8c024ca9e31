"""Your own data, network and loop, then a file to ship: python examples/own_loop.py [--epochs 20] [--out student]

The distiller is the only part of limbeck in the loop: it returns the loss of a batch with its named parts.
"""

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import limbeck as lb


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a teacher, distil it by hand, measure both and export the student."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", default="student")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    digits = load_digits()
    whole = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
    train, test = random_split(whole, [1400, len(whole) - 1400])

    teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    lb.fit(teacher, train, method=lb.methods.hard(), epochs=options.epochs)

    student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    distiller = lb.Distiller(student, teacher, lb.methods.kd(temperature=4.0, alpha=0.1))
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9)
    for _ in range(options.epochs):
        for inputs, labels in DataLoader(train, batch_size=64, shuffle=True):
            loss = distiller(lb.Batch.of(inputs, labels))
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()

    for name, network in {"teacher": teacher, "student": student}.items():
        print(f"{name}: {lb.evaluate(network, test).errors} of {len(test)} wrong")
    exported = lb.export(student.eval(), test, options.out, to="onnx")
    print(f"{exported.folder}: {exported.bytes:,} bytes, answers differ by {exported.parity.largest:.1g} of the spread")


if __name__ == "__main__":
    main()
