"""The journal of a study: one record a line, of which a kill or a full disk costs at most the one being written."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from limbeck.errors import RunError, UnwrittenError
from limbeck.locks import exclusive

__all__ = ["Journal"]

_BEGIN, _WRITER = '{"op_code"', '"worker_id":"'
"""Of a record, as Optuna makes them: how it begins, and what stands before the name of the process that wrote it."""
_TELLING = 8
"""Letters of a writer's name, a random one, that tell it from others."""
_DECODER = json.JSONDecoder()


class Journal(BaseJournalBackend):
    """The records of Optuna's study in a file, in the format of Optuna's own backend, which fails on a line cut short.

    A process that is killed, or whose disk is full, may leave a record without its end; with Optuna's backend the next
    record of another process then stands behind it on the same line.  Such a piece belongs to no trial, since its
    writer has not read it back: it is passed over, and one at the end of the file is cut off, after a copy to
    `<name>.cut`, before anything is appended.

    Raises RunError for a file that was damaged otherwise, and UnwrittenError where the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()
        with self._writing(), path.open("ab"):
            pass

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the records from a number on, as far as they are whole."""
        if self._known != log_number_from:
            self._forget()
        with self._alone(), self._path.open("rb") as file:
            file.seek(self._place)
            content = file.read()
        found = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            found += self._records(line)
            self._place += len(line)
        skipped = log_number_from - self._known
        self._known += len(found)
        return found[skipped:]

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Append records, all of them or none."""
        added = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self._alone(), self._writing(), self._path.open("rb+", buffering=0) as file:
            end = self._ended(file)
            file.seek(end)
            try:
                _write(file, added)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _ended(self, file: FileIO) -> int:
        """Let the file end with a whole line, and return its length."""
        file.seek(self._place)
        content = file.read()
        end = self._place + content.rfind(b"\n") + 1
        if piece := content[end - self._place :]:
            with self._path.with_name(f"{self._path.name}.cut").open("ab") as aside:
                aside.write(piece + b"\n")
            file.truncate(end)
        return end

    def _forget(self) -> None:
        """Let the next reading begin at the beginning."""
        self._known = self._place = 0  # records, and bytes, that were read
        self._cut: list[str] = []  # the writers of the pieces among them

    def _records(self, line: bytes) -> list[dict[str, Any]]:
        """Return the whole records of a line; RunError for what is neither one nor a piece that a process left."""
        found: list[dict[str, Any]] = []
        text, place = line.decode("utf-8", errors="replace").strip(), 0
        while place < len(text):
            try:
                record, place = _DECODER.raw_decode(text, place)
            except ValueError:
                following = text.find(_BEGIN, place + 1)
                piece = text[place : None if following < 0 else following]
                if not (piece.startswith(_BEGIN) or (following > 0 and _BEGIN.startswith(piece.strip("\0")))):
                    raise self._damaged("a line is no record") from None
                writer = piece.partition(_WRITER)[2].partition('"')[0]
                self._cut += [writer] if len(writer) >= _TELLING else []
                place += len(piece)
                continue
            if not isinstance(record, dict) or "op_code" not in record:
                raise self._damaged("a line is no record")
            if any(str(record.get("worker_id")).startswith(writer) for writer in self._cut):
                raise self._damaged("a record was cut short whose writer did not end there")
            found.append(record)
        return found

    def _damaged(self, reason: str) -> RunError:
        return RunError(f"study: '{self._path}' is damaged ({reason}); start a new study without --study")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        with exclusive(lock, wait=True, busy=f"study: another process uses '{self._path}'"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwrittenError(f"study: cannot write '{self._path}' ({error.strerror or error})") from None


def _write(file: FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]
