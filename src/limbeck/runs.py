"""The run folder: what exactly ran, kept so that it can be repeated; nothing in it is ever overwritten."""

import datetime
import json
import platform
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from limbeck import __version__
from limbeck.errors import LimbeckError, RunError, UnwrittenError, command, one_line, plain
from limbeck.ranks import first_does, held_by_first, is_first
from limbeck.records import as_json, sealed, unsealed

__all__ = ["RunFolder", "environment", "group_of", "made_by", "read_manifest"]


def environment() -> dict[str, Any]:
    """Return what a bug report or a repetition needs to know of the machine."""
    packages = {"limbeck": __version__}
    for name in ("torch", "accelerate", "numpy", "safetensors", "pydantic", "scikit-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "threads": torch.get_num_threads(),
        "devices": devices or ["cpu"],
    }


class _Manifest(BaseModel):
    """What readers of a manifest take for granted; a key may be missing, as from a run that was broken early."""

    model_config = ConfigDict(strict=True)
    command: list[str] = []
    started: str = ""
    environment: dict[str, str | int | list[str] | dict[str, str]] = {}
    git: str | None = None
    test_reads: list[dict[str, str]] = []
    teachers: dict[str, str] = {}
    data: dict[str, str | int] = {}
    code: dict[str, dict[str, str]] = {}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run; ValueError, RecursionError or OSError when it is damaged."""
    manifest = unsealed(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    _Manifest.model_validate(manifest)
    for key, kind in (("packages", dict), ("devices", list)):
        if not isinstance(manifest.get("environment", {}).get(key, kind()), kind):
            raise ValueError(f"environment.{key} is no {kind.__name__}")
    return {"test_reads": [], **manifest}


def made_by(folder: Path) -> str | None:
    """Return the command that made a run folder, such as "tune"; None where its manifest does not tell."""
    try:
        words = read_manifest(folder).get("command", [])
    except (OSError, ValueError, RecursionError):
        return None
    return words[1] if len(words) > 1 else None


class RunFolder:
    """The folder of one run: recipe.yaml (resolved), manifest.json, log.txt, and a folder for each training.

    Where several processes train together, all have the folder and the first alone writes in it.
    """

    def __init__(self, path: Path, again: str | None = None) -> None:
        self.path = path
        self.again = again or command("limbeck", "distill", path / "recipe.yaml", "--resume", path)
        """The command by which what is done in the folder goes on, ready to be pasted; that of a run by default."""

    @classmethod
    def create(cls, root: Path, name: str, recipe: str, argv: Sequence[str]) -> "RunFolder":
        """Make a new folder root/name/<stamp>-<id>."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        path = root / name / f"{stamp}-{secrets.token_hex(3)}"
        try:
            path.mkdir(parents=True)
            (path / "recipe.yaml").write_text(recipe, encoding="utf-8")
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RunError(
                f"run folder: cannot make '{path}' ({error.strerror}); name a folder that can be written with --runs"
            ) from None
        folder = cls(path)
        manifest = {
            "command": list(argv),
            "working_directory": str(Path.cwd()),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "environment": environment(),
            "git": _git_commit(),
            "test_reads": [],
        }
        try:
            folder._write_manifest(manifest)
        except RunError as error:
            shutil.rmtree(path, ignore_errors=True)
            found = error.found if isinstance(error, UnwrittenError) else str(error)
            raise RunError(f"{found}; name a folder that can be written with --runs") from None
        return folder

    @classmethod
    def open(cls, path: Path, recipe: str, resolved: Callable[[Path], str]) -> "RunFolder":
        """Open the folder of an interrupted run of the same recipe; RunError when it is of another one.

        resolved: what gives the resolved text of a recipe's file, with which a key that came after the run began has
        its default.
        """
        kept = path / "recipe.yaml"
        if not kept.is_file():
            raise RunError(f"resume: '{path}' is not a run folder (it has no recipe.yaml); name one below runs/")
        text = kept.read_text(encoding="utf-8", errors="replace")
        if text != recipe:
            with suppress(LimbeckError):  # what cannot be read today is another recipe
                text = resolved(kept)
        if text != recipe:
            there, here = text.splitlines(), recipe.splitlines()
            changed = next(((a, b) for a, b in zip(there, here, strict=False) if a != b), ("its length", "another"))
            raise RunError(
                f"resume: '{path}' is a run of another recipe: '{changed[0].strip()}' there,"
                f" '{changed[1].strip()}' here; "
                "start a new run without --resume"
            )
        return cls(path)

    def discard(self) -> None:
        """Delete the folder of a run that was refused before anything began."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; RunError when another process is running in it."""
        with held_by_first(
            self.path / ".lock", wait=False, busy=f"run folder: '{self.path}' is in use by another process; wait for it"
        ):
            yield

    def note(self, **entries: Any) -> None:
        """Add entries to the manifest."""
        first_does(lambda: self._write_manifest({**self._manifest(), **entries}))

    def noted(self, name: str) -> Any:
        """Return an entry of the manifest; None where there is none."""
        return self._manifest().get(name)

    def read_test_set(self, purpose: str) -> None:
        """Put on record that the test set was read."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

        def record() -> None:
            manifest = self._manifest()
            manifest["test_reads"].append({"at": now, "for": purpose})
            self._write_manifest(manifest)

        first_does(record)

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        if not is_first():  # who does not wait either: a line may be one process's alone
            return
        with self.writing("log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            shown = "\n".join(plain(each) for each in line.splitlines())
            file.write(f"{datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')} {shown}\n")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run: aside, then renamed."""

        def write(path: Path) -> None:
            aside = path.with_name(f".{path.name}.tmp")
            aside.write_text(as_json(content) + "\n", encoding="utf-8")
            aside.replace(path)

        self.save(name, write)

    def save(self, name: str, write: Callable[[Path], None]) -> None:
        """Let a file or folder of the run be written, of several processes by the first; the others wait for it."""

        def told() -> None:
            with self.writing(name):
                write(self.path / name)

        first_does(told)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Tell of a file of the run that cannot be written in the scope: RunError with the mend."""
        gone = f"run folder: '{self.path}' is gone, so '{name}' cannot be written; start a new run"
        if not self.path.is_dir():  # writing must not make it again
            raise RunError(gone)
        try:
            yield
        except OSError as error:
            if not self.path.is_dir():
                raise RunError(gone) from None
            raise UnwrittenError(
                f"run folder: cannot write '{self.path / name}' ({error.strerror or error})",
                f"fix that and resume with: {self.again}",
            ) from None

    def _manifest(self) -> dict[str, Any]:
        try:
            return read_manifest(self.path)
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"run folder: '{self.path / 'manifest.json'}' is damaged ({one_line(error)}); start a new run"
            ) from None

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.write_json("manifest.json", sealed(manifest))


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def group_of(folder: Path) -> int | None:
    """Return the group that a run is of; None for a run of a whole recipe, and where its manifest cannot be read."""
    try:
        known = read_manifest(folder).get("exchange")
    except (OSError, ValueError, RecursionError):
        return None
    return known.get("group") if isinstance(known, dict) else None
