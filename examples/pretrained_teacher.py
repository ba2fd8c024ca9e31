"""A pretrained network of the Transformers library and a table of texts, to a small student:

    python examples/pretrained_teacher.py FOLDER TEXTS.csv [--epochs 3] [--out student]

FOLDER is what `save_pretrained` writes; TEXTS.csv has the columns `text` and `label`. The teacher is fine-tuned first.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import limbeck as lb


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, distil, measure and export."""
    parser = argparse.ArgumentParser(description="Distil a network of the Transformers library into a small one.")
    parser.add_argument("folder")
    parser.add_argument("texts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default="student")
    options = parser.parse_args(arguments)
    splits = lb.data.sentences(options.texts, tokenizer=lb.tokenizers.Folder(options.folder), max_length=64)
    train, test = splits.train, splits.test

    teacher = lb.models.builder("pretrained")(train.input_shape, train.classes, folder=options.folder)
    how = {"epochs": options.epochs, "optimizer": "adamw", "schedule": "linear", "batch_size": 32}
    lb.fit(teacher, train, method=lb.methods.hard(), learning_rate=5e-5, **how)

    student = lb.models.transformer(
        train.input_shape, train.classes, vocabulary=len(train.vocabulary), layers=2, width=64, heads=4
    )
    lb.fit(student, train, teacher=teacher, method=lb.methods.kd(temperature=2.0), learning_rate=5e-4, **how)

    for name, network in {"teacher": teacher, "student": student}.items():
        print(f"{name}: accuracy {lb.evaluate(network, test).accuracy:.3f}")
    exported = lb.export(student.eval(), test, Path(options.out), to="onnx")
    print(f"{exported.folder}: {exported.bytes:,} bytes")


if __name__ == "__main__":
    main()
