"""Whatever a file of data or weights holds, limbeck reads it or answers with one line."""

import gzip
import io
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck as lb
from fuzzing import answered, arrays, cases, noisy, safetensors_bytes
from limbeck import data
from limbeck.training import load_weights


def npz_bytes(draw: random.Random) -> bytes:
    """Draw an archive: with arrays of other kinds, with false headers, or with noise."""
    found, file = arrays(), io.BytesIO()
    kind = draw.randrange(6)
    if kind == 0:  # arrays that do not fit
        other = [
            *(
                np.array([{}], dtype=object),
                np.zeros((0, 1, 4, 4)),
                np.zeros(()),
                np.zeros((60, 2), complex),
                np.zeros(60, bool),
            ),
            *(
                np.full((60, 4), np.nan),
                np.array(["x"] * 60),
                np.arange(60) + 2**62,
                -np.arange(60),
                np.zeros((60,) + (1,) * 20),
            ),
            *(
                np.zeros(60, "V8"),
                np.zeros(60, "M8[s]"),
                np.arange(60, dtype=np.uint64) + 2**63,
                np.zeros((60, 4), np.float16),
            ),
        ]
        for _ in range(draw.randint(1, 2)):
            found[draw.choice([*found, "test_inputs", "test_labels", "../x", ""])] = draw.choice(other)
        np.savez(file, **found)
        return file.getvalue()
    if kind == 1:  # headers that promise more than there is
        with zipfile.ZipFile(file, "w") as archive:
            for key, array in found.items():
                body = io.BytesIO()
                np.save(body, array)
                shape = draw.choice(
                    ["(9999999999, 9999)", "(2147483648,)", "(-1, 4)", "(4,) * 9", "()", "(1e9,)", "(10**12,)", "("]
                )
                text = re.sub(rb"'shape': .*?\), \}", f"'shape': {shape}, }}".encode(), body.getvalue())
                archive.writestr(f"{key}.npy", text if draw.random() < 0.7 else body.getvalue())
        return file.getvalue()
    if kind == 2:  # compressed a thousandfold
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
            archive.writestr("inputs.npy", header.getvalue() + bytes(2**20))
            archive.writestr("labels.npy", bytes(2**20))
        content = bytearray(file.getvalue())
        size = struct.pack("<I", draw.choice([2**32 - 2, 2**31, 0]))
        for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # what the archive says of the unpacked size
            if draw.random() < 0.7:
                place = content.index(mark) + at
                content[place : place + 4] = size
        return bytes(content)
    (np.savez_compressed if kind == 3 else np.savez)(file, **found)
    return bytes(noisy(draw, file.getvalue()))


def idx_file(*shape: int, kind: int = 8, body: bytes | None = None) -> bytes:
    header = b"\0\0" + bytes([kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + (bytes(int(np.prod(shape))) if body is None else body)


def idx_bytes(draw: random.Random) -> bytes:
    """Draw an IDX file, gzipped or not: with a false header, with noise, or that unpacks to more than it says."""
    kind = draw.randrange(5)
    if kind == 0:
        sizes = [draw.choice([0, 1, 28, 2**16, 2**31, 2**32 - 1]) for _ in range(draw.choice([0, 1, 2, 3, 5, 64, 255]))]
        content = idx_file(*sizes, kind=draw.choice([8, 8, 9, 13, 0]), body=bytes(draw.choice([0, 1, 784, 10_000])))
    elif kind == 1:
        content = idx_file(2, 2, body=bytes(draw.choice([3, 5, 10**7])))
    else:
        content = bytes(noisy(draw, idx_file(30, 4, 4)))
    if draw.random() < 0.5:
        content = gzip.compress(content, mtime=0)
        return bytes(noisy(draw, content)) if draw.random() < 0.5 else content
    return content


@pytest.mark.miniature(1)
@pytest.mark.parametrize("seeds", cases(80, 2000, 2))
@pytest.mark.parametrize("kind", ["npz", "idx", "safetensors"])
def test_no_malformed_file_ends_in_anything_but_one_line(tmp_path, kind, seeds):
    model = lb.models.mlp((1, 4, 4), 3, hidden=(8,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused = 0
    for seed in seeds:
        draw = random.Random(seed)
        if kind == "npz":
            (tmp_path / "own.npz").write_bytes(npz_bytes(draw))
            found = answered(lambda: data.npz("own.npz"))
        elif kind == "idx":
            (tmp_path / "file").write_bytes(idx_bytes(draw))
            found = answered(lambda: data.read_idx("file"))
        else:
            (tmp_path / "own.safetensors").write_bytes(safetensors_bytes(draw, before))
            found = answered(lambda: load_weights(model, Path("own.safetensors")))
            if isinstance(found, str):
                assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), seed
            model.load_state_dict(before)
        refused += isinstance(found, str)
    assert refused > len(seeds) // 3


def test_no_pickle_is_opened(tmp_path):
    torch.save(lb.models.mlp((1, 4, 4), 3).state_dict(), tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", inputs=np.array([Path()], dtype=object), labels=np.arange(1))
    assert isinstance(answered(lambda: load_weights(lb.models.mlp((1, 4, 4), 3), tmp_path / "a.safetensors")), str)
    assert "never unpickled" in answered(lambda: data.npz(str(tmp_path / "a.npz")))
