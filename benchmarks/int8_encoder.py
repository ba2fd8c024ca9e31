"""What 8-bit weights change in the sentence vectors of a pretrained encoder: all of them, and embeddings alone.

    python benchmarks/int8_encoder.py --encoder FOLDER --sentences FILE.tsv [--count 300] [--json FILE]

FOLDER is one of the Transformers library, with its tokenizer; of the file the first column is read, without its first
line.  A vector is the mean over tokens, of length 1.  Beside bytes: the cosine of each vector in 8 bits with the one in
float32, and the share of sentences whose nearest neighbour among the others stays the same.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.exporting import ONNX, int8
from measuring import machine


class Vectors(nn.Module):
    """The mean of an encoder's last hidden states over the tokens of each sentence, of length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return vectors (N, D) of token ids (N, L)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)


def vectors(file: Path, inputs: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    """Return what ONNX Runtime answers, 50 sentences at a time."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    count = len(inputs["input_ids"])
    parts = [{name: each[at : at + 50].numpy() for name, each in inputs.items()} for at in range(0, count, 50)]
    return np.concatenate([session.run(None, part)[0] for part in parts])


def neighbours(found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the nearest other sentence of each."""
    cosines = found @ found.T
    np.fill_diagonal(cosines, -1)
    nearest: np.ndarray[Any, Any] = cosines.argmax(1)
    return nearest


def main() -> None:
    """Export an encoder in three ways, and print and write what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer

    lines = options.sentences.read_text(encoding="utf-8").splitlines()[1 : options.count + 1]
    read = AutoTokenizer.from_pretrained(options.encoder)
    texts = [line.split("\t")[0] for line in lines]
    made = read(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
    model = Vectors(AutoModel.from_pretrained(options.encoder)).eval()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lb.export(model, inputs, folder / "float32", to="onnx")
        lb.export(model, inputs, folder / "int8", to="onnx", quantize="int8", agreement=0.0)
        shutil.copytree(folder / "float32", folder / "embeddings")
        int8._quantize_embeddings(folder / "float32" / ONNX, folder / "embeddings" / ONNX)  # noqa: SLF001
        exact = vectors(folder / "float32" / ONNX, inputs)
        rows = {}
        for name in ("float32", "embeddings", "int8"):
            found = vectors(folder / name / ONNX, inputs)
            cosines = (exact * found).sum(1)
            rows[name] = {
                "bytes": (folder / name / ONNX).stat().st_size,
                "cosine": float(cosines.mean()),
                "least cosine": float(cosines.min()),
                "same neighbour": float((neighbours(exact) == neighbours(found)).mean()),
            }
            print(name, rows[name], flush=True)
    if options.json:
        content = {"sentences": len(texts), "rows": rows, "machine": machine(torch.get_num_threads())}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
