"""Digests of a finished run: of its files, its data and its code.  They are checked before the run is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import RunError, command, one_line
from limbeck.experiment.outcome import Outcome
from limbeck.experiment.parts import Parts
from limbeck.records import as_json, plain_values, read_as, sealed, unsealed
from limbeck.runs import RunFolder, read_manifest
from limbeck.training.checkpoints import digest

__all__ = ["OUTCOME", "data_of", "files_of", "keep_outcome", "read_outcome", "require_same", "seal_of"]

OUTCOME, _DIGESTS = "outcome.json", "digests.json"
_FILES = (
    "recipe.yaml",
    "signature.json",
    "tokenizer/tokenizer.json",
    "*.safetensors",
    "*.metrics.jsonl",
    "*/*.safetensors",
    "*/metrics.jsonl",
    "*/result.json",
)
"""What is read of a finished run besides its outcome.

The manifest, which grows by the readings of the test set, and what is measured later have seals of their own.
"""


def data_of(parts: Parts) -> dict[str, str]:
    """Return the digest of each set of a run."""
    sets = {"train": parts.train, "held_out": parts.held_out, "transfer": parts.transfer, "alone": parts.alone}
    return {name: each.digest() for name, each in {**sets, "test": parts.test}.items() if each is not None}


def files_of(code: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the digests of the files of a recipe's code, each by the factory's key and its module."""
    pairs = [(where, module, sha256) for where, files in code.items() for module, sha256 in files.items()]
    return {f"module {module} of {where}.factory": sha256 for where, module, sha256 in pairs}


def keep_outcome(folder: RunFolder, outcome: Outcome) -> None:
    """Write the outcome of a run, after digests.json with the digest of each file that belongs to the run.

    Two runs of the same recipe have the same outcome; their manifests, and so their digests, differ.
    """
    content = outcome.as_dict()
    found = sorted({path for pattern in _FILES for path in folder.path.glob(pattern) if path.is_file()})
    files = {path.relative_to(folder.path).as_posix(): digest(path) for path in found}
    files[OUTCOME] = hashlib.sha256(f"{as_json(content)}\n".encode()).hexdigest()
    folder.write_json(_DIGESTS, sealed(plain_values(_Digests(files, _origin(folder.path)))))
    folder.write_json(OUTCOME, content)


def read_outcome(folder: Path) -> Outcome:
    """Return the outcome of a run whose files are those that it ended with.

    A missing file and a damaged manifest are reported by their readers.  Raises RunError for a run
    without digests, and for a file that is not the run's own.
    """
    path = folder / _DIGESTS
    if not path.is_file():
        raise RunError(
            f"'{folder}': found no {_DIGESTS}; expected the digests of its files, which tell "
            f"whether anything has changed since. Run the recipe again: {_again(folder)}"
        )
    try:
        known = read_as(_Digests, unsealed(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); run the recipe again: {_again(folder)}") from None
    for name, expected in {OUTCOME: "none", **known.files}.items():
        file = folder / name
        if file.is_file() and (found := _digest(file)) != expected:
            raise RunError(
                f"'{file}' is damaged or was changed: found SHA-256 {found[:12]}; expected {expected[:12]}, as the run "
                f"ended. Put the run's own file back, or run the recipe again: {_again(folder)}"
            )
    if (origin := _origin(folder)) is not None and origin != known.origin:
        raise RunError(
            f"'{folder}': found a manifest.json of another run; expected the one of this run. Restore it, or run the "
            f"recipe again: {_again(folder)}"
        )
    try:
        return Outcome.read(json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"'{folder / OUTCOME}' is damaged ({one_line(error)}); run the recipe again") from None


@dataclass(frozen=True)
class _Digests:
    """What digests.json holds: of the run's files by their names, and of what its manifest says of how it was made."""

    files: Mapping[str, str]
    origin: str | None


def require_same(folder: Path, what: str, found: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Require digests to be those of the run; RunError for the first that is not.  what: data or code."""
    for name in sorted({*found, *known}):
        if found.get(name) != known.get(name):
            if name not in found:
                raise RunError(
                    f"'{folder}': found no {what} ({name}); expected it where the run had it"
                    f"{', importable from the current folder' if what == 'code' else ''}. Put the {what} back"
                )
            raise RunError(
                f"'{folder}': found other {what} ({name}: SHA-256 {_short(found.get(name))}); expected "
                f"{_short(known.get(name))}, as in the run. Restore the {what}, or run the recipe "
                f"again: {_again(folder)}"
            )


def seal_of(folder: Path) -> str | None:
    """Return the digest of a run's outcome, to which what is measured later is bound; None where there is none."""
    return _digest(folder / OUTCOME) if (folder / OUTCOME).is_file() else None


def _origin(folder: Path) -> str | None:
    """Return the digest of what a manifest says of how its run came to be; None where it cannot be read."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError, RecursionError):
        return None
    made = {key: value for key, value in manifest.items() if key != "test_reads"}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise RunError(
            f"'{path}' cannot be read ({error.strerror or error}); fix that and run the command again"
        ) from None


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:12]


def _again(folder: Path) -> str:
    return command("limbeck", "distill", folder / "recipe.yaml")
