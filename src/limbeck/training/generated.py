"""Targets that a teacher generated for the sources of a set: kept by what decides them, and made part by part.

They lie in `generated/<address>` of a cache: a manifest with the teacher's fingerprint, the set, the tokenizer and the
search, and a file for each part, so that an interrupted search goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import checks
from limbeck.data import SampleSet
from limbeck.errors import CheckpointError, InputError
from limbeck.generation import beam_search
from limbeck.own import require_own
from limbeck.ranks import first_does, first_says, held_by_first, is_first
from limbeck.teachers.model import ModelTeacher
from limbeck.training.checkpoints import load_tensors, read_sealed, save_tensors, sync, write_sealed
from limbeck.training.identity import require_same

__all__ = ["BeamSettings", "Candidates", "generate_or_read"]

_MANIFEST = "manifest.json"
_FORMAT = 1
_PART = 256  # samples that are searched together, and kept in a file

Candidates = list[list[list[int]]]
"""For each sample the K best sequences, the best first, each with its end token."""


@dataclass(frozen=True)
class BeamSettings:
    """How targets are searched; see `limbeck.generation.beam_search`.

    length: the largest number of tokens; None for that of the longest target or source of the set.
    """

    beam: int = 5
    length_penalty: float = 0.0
    length: int | None = None

    def __post_init__(self) -> None:
        checks.at_least("beam", self.beam, 1)
        checks.non_negative("length_penalty", self.length_penalty)
        if self.length is not None:
            checks.at_least("length", self.length, 1)


def generate_or_read(
    teacher: nn.Module,
    samples: SampleSet,
    settings: BeamSettings,
    *,
    root: Path,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Candidates:
    """Return a teacher's K best sequences for each sample of a set, from a cache, or searched and kept there.

    root: the cache, `limbeck.own.cache_folder()` as a rule; RunError where another user can write in it.
    say: told whether they are found or made, and how far the search is.
    Raises InputError for a set without a tokenizer, CheckpointError where a file is damaged.
    """
    if samples.tokenizer is None:
        raise InputError(f"{samples.name}: found no tokenizer; expected texts, such as data of kind seq2seq")
    end = samples.tokenizer.special.eos
    identity = {
        "format": _FORMAT,
        "teacher": ModelTeacher(teacher, frozen=False).fingerprint(),
        "data": samples.digest(),
        "tokenizer": samples.tokenizer.fingerprint,
        "ends": [] if end is None else [end],
        "search": {**asdict(settings), "length": settings.length or samples.max_length},
    }
    address = first_says(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24])
    folder = root / "generated" / address
    require_own(folder, root)
    with held_by_first(folder / ".lock", wait=True, busy=f"another process generates targets in '{folder}'"):
        return _parts(teacher, samples, identity, folder, device, say)


def _parts(
    teacher: nn.Module,
    samples: SampleSet,
    identity: Mapping[str, Any],
    folder: Path,
    device: torch.device | str,
    say: Callable[[str], None],
) -> Candidates:
    def begin() -> None:
        manifest = folder / _MANIFEST
        if manifest.is_file():
            require_same(read_sealed(manifest)["identity"], identity, manifest)
        else:
            write_sealed(manifest, {"identity": dict(identity), "samples": len(samples)})

    def make(number: int, positions: torch.Tensor) -> None:
        path = _file(folder, number)
        if not path.is_file():
            _search(teacher, samples, positions, identity, path, device)

    first_does(begin)
    chunks = torch.arange(len(samples)).split(_PART)
    done = sum(_file(folder, number).is_file() for number in range(len(chunks)))
    done = first_says(done)
    what = f"targets of {len(samples):,} samples"
    say(f"{what}: {'found in' if done == len(chunks) else 'generating in' if not done else 'going on in'} {folder}")
    found: Candidates = []
    for number, positions in enumerate(chunks):
        first_does(lambda number=number, positions=positions: make(number, positions))  # type: ignore[misc]
        found += _read(_file(folder, number), len(positions))
        if done < len(chunks) and number + 1 < len(chunks) and (number + 1) % 20 == 0 and is_first():
            say(f"{what}: {len(found):,} done")
    return found


def _search(
    teacher: nn.Module,
    samples: SampleSet,
    positions: torch.Tensor,
    identity: Mapping[str, Any],
    path: Path,
    device: torch.device | str,
) -> None:
    search = identity["search"]
    gathered = samples.gather(positions)
    if not isinstance(gathered, Mapping):
        raise InputError(
            f"{samples.name}: found one tensor of inputs; expected a mapping, as data of kind seq2seq gives"
        )
    inputs = {name: each.to(device) for name, each in gathered.items()}
    found = beam_search(
        teacher,
        inputs,
        length=search["length"],
        ends=identity["ends"],
        beam=search["beam"],
        best=search["beam"],
        length_penalty=search["length_penalty"],
    )
    aside = path.with_name(f".{path.name}.tmp")
    tensors = {"tokens": found.tokens.to(torch.int32), "lengths": found.lengths, "log_probs": found.log_probs}
    save_tensors(tensors, aside)
    sync(aside)
    aside.replace(path)


def _read(path: Path, count: int) -> Candidates:
    tensors = load_tensors(path)
    if set(tensors) != {"tokens", "lengths", "log_probs"} or len(tensors["tokens"]) != count:
        raise CheckpointError(f"{path}: found other content than generated targets; delete the file to make it again")
    pairs = zip(tensors["tokens"].tolist(), tensors["lengths"].tolist(), strict=True)
    return [
        [tokens[:length] for tokens, length in zip(rows, lengths, strict=True) if length] for rows, lengths in pairs
    ]


def _file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.safetensors"
