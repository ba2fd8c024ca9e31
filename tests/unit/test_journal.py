"""The journal of a study: what a kill or a full disk leaves of a record costs no other record."""

import errno
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from limbeck.errors import RunError, UnwrittenError
from limbeck.tune import journal
from limbeck.tune.journal import Journal


def record(number: int, writer: str = "0a1b2c3d-one") -> dict[str, Any]:
    return {"op_code": 8, "worker_id": writer, "trial_id": number, "user_attr": {"said": 'a "{" and \u0151'}}


def line(number: int, writer: str = "0a1b2c3d-one") -> bytes:
    return json.dumps(record(number, writer), separators=(",", ":")).encode() + b"\n"


WHOLE = line(0) + line(1, "4e5f6a7b-two")
CUT = line(2, "8c9d0e1f-three")
LENGTHS = [1, 2, CUT.index(b"{", 1), CUT.index(b"\\u") + 3, len(CUT) - 3, len(CUT) - 2, len(CUT) - 1]
"""Where a record may be cut: at its ends, at a brace within a text, and within an escape."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


@pytest.mark.parametrize("length", LENGTHS)
def test_a_record_cut_at_any_byte_is_passed_over_and_cut_off_before_the_next(path: Path, length: int) -> None:
    path.write_bytes(WHOLE)
    living = Journal(path)
    assert living.read_logs(0) == [record(0), record(1, "4e5f6a7b-two")]
    path.write_bytes(WHOLE + CUT[:length])
    living.append_logs([record(3)])
    assert path.read_bytes() == WHOLE + line(3)
    assert path.with_name("study.journal.cut").read_bytes() == CUT[:length] + b"\n"
    assert living.read_logs(2) == [record(3)]
    assert Journal(path).read_logs(1) == [record(1, "4e5f6a7b-two"), record(3)]


@pytest.mark.parametrize("length", [*LENGTHS, "zeros"])
def test_what_another_process_appended_to_a_cut_record_is_read(path: Path, length: Any) -> None:
    piece = bytes(40) if length == "zeros" else CUT[:length]
    path.write_bytes(WHOLE + piece + line(3) + line(4))
    whole = [record(2, "8c9d0e1f-three")] if length == len(CUT) - 1 else []  # nothing but its newline is missing
    expected = [record(0), record(1, "4e5f6a7b-two"), *whole, record(3), record(4)]
    reader = Journal(path)
    assert reader.read_logs(0) == expected
    for number in range(len(expected) + 1):
        assert reader.read_logs(number) == expected[number:]
        assert Journal(path).read_logs(number) == expected[number:]


def test_a_record_cut_on_a_line_of_its_own_is_passed_over_where_its_writer_had_ended(path: Path) -> None:
    path.write_bytes(WHOLE + CUT[: len(CUT) // 2] + b"\n" + line(3))
    assert Journal(path).read_logs(2) == [record(3)]
    path.write_bytes(WHOLE + CUT[: len(CUT) // 2] + b"\n" + line(3) + line(4, "8c9d0e1f-three"))
    with pytest.raises(RunError, match=r"study\.journal' is damaged \(a record was cut short whose writer did not end"):
        Journal(path).read_logs(0)


@pytest.mark.parametrize("content", [b"{\n", b"{}\n", b"[]\n", b"\x00\xff\n", b"no\n" + WHOLE, b"no" + WHOLE, b"7\n"])
def test_what_no_cut_record_leaves_is_damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"study\.journal' is damaged \(a line is no record\); start a new study"):
        Journal(path).read_logs(0)


def test_records_are_appended_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(WHOLE)

    def fills_up(file: Any, content: bytes) -> None:
        file.write(content[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", fills_up)
        with pytest.raises(UnwrittenError, match=r"cannot write '.*study\.journal' \(No space left on device\)"):
            Journal(path).append_logs([record(3), record(4)])
    assert path.read_bytes() == WHOLE
    Journal(path).append_logs([record(3), record(4)])
    assert path.read_bytes() == WHOLE + line(3) + line(4)


def test_a_study_of_two_processes_goes_on_after_a_line_that_was_cut_in_the_middle(path: Path) -> None:
    def joined() -> optuna.Study:
        storage = optuna.storages.JournalStorage(Journal(path))
        return optuna.create_study(study_name="one", storage=storage, load_if_exists=True)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first, second = joined(), joined()
    for number, study in enumerate([first, second, first]):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, number)
    kept = [trial.params for trial in first.trials]
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"worker_id":"deadbeef-0')
    second.tell(second.ask(), 3.0)  # as a living process does after another one was killed
    assert [trial.value for trial in first.trials] == [0.0, 1.0, 2.0, 3.0]
    assert [trial.params for trial in joined().trials][:3] == kept
    assert [trial.number for trial in joined().trials] == [0, 1, 2, 3]
