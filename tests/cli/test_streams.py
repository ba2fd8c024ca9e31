"""Standard streams that are closed, broken, full, or of an encoding that lacks characters; and what may be pasted."""

import errno
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck import cli
from limbeck.cli import showing, streams
from limbeck.cli.streams import copied, lost, steady
from limbeck.errors import LimbeckError, command, plain
from walk import over

# ------------------------------------------------------------------------------------- what lies below, in one process


class Below(io.RawIOBase):
    """A raw stream that takes `room` bytes, a few at a time, and then fails as it is told to."""

    def __init__(self, room: float = float("inf"), fails: int = errno.ENOSPC) -> None:
        self.taken, self.room, self.fails, self.busy = b"", room, fails, False

    def write(self, content: memoryview) -> int | None:
        self.busy = not self.busy
        if self.busy:
            return None  # a pipe that is full for the moment and does not wait
        if len(self.taken) >= self.room:
            raise OSError(self.fails, os.strerror(self.fails))
        self.taken += bytes(content[:7])
        return len(content[:7])

    def writable(self) -> bool:
        return True


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put raw streams, or nothing, under stdout and stderr."""
    monkeypatch.setattr(streams, "_SECONDS_BEFORE_RETRY", 0.0)

    def on(out: Below | None, err: Below | None, encoding: str = "utf-8") -> None:
        for name, below in (("stdout", out), ("stderr", err)):
            stream = None if below is None else io.TextIOWrapper(io.BufferedWriter(below), encoding=encoding)
            monkeypatch.setattr(sys, name, stream)

    return on


def test_everything_gets_through_a_pipe_that_is_slow(put) -> None:
    out, err = Below(), Below()
    put(out, err)
    with steady():
        showing.show("a ± b", "c")
        showing.say("told")
        assert lost() is None
    assert (out.taken.decode(), err.taken.decode()) == ("a ± b\nc\n", "told\n")


@pytest.mark.parametrize("fails", [errno.ENOSPC, errno.EPIPE, errno.EBADF, errno.EIO])
def test_what_stdout_does_not_take_is_told_once_and_a_copy_is_no_loss(put, fails) -> None:
    put(Below(20, fails), Below())
    with steady():
        with copied():
            showing.show("x" * 50)
        assert lost() is None
        showing.show_json({"figures": list(range(50))})
        assert lost().errno == fails


def test_what_is_for_people_is_dropped_where_stderr_is_closed_and_never_in_stdout(put) -> None:
    out = Below()
    put(out, None)
    with steady():
        showing.say("for people")
        print("for people too", file=sys.stderr)
        showing.show_json([1])
        assert lost() is None
    assert json.loads(out.taken) == [1]


def test_json_alone_reaches_stdout_whatever_a_module_of_the_users_prints(put, monkeypatch, tmp_path) -> None:
    out, err = Below(), Below()
    put(out, err)
    (tmp_path / "talking.py").write_text(
        "print('imported')\nfrom torch import nn\n"
        "def net():\n    print('made')\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: talking\ndata: {kind: digits}\nteacher: {model: {kind: mlp, hidden: [4]}}\n"
        "student: {model: {factory: 'talking:net'}}\ntraining: {epochs: 1}\n"
    )
    monkeypatch.setattr(sys, "argv", ["limbeck", "check", str(tmp_path / "r.yaml"), "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert json.loads(out.taken)["data"]
    assert err.taken.decode().startswith("imported\nmade\n")


def test_stdout_that_is_closed_loses_only_what_is_written(put) -> None:
    put(None, Below())
    with steady():
        assert lost() is None
        showing.show("x")
        assert isinstance(lost(), OSError)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8", "± × · … ‖ é ă 数 \\udcff"),
        ("latin-1", "± × · ... || é ? ? \\udcff"),
        ("cp1252", "± × · … || é ? ? \\udcff"),
        ("ascii", "+/- x | ... || ? ? ? \\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_replaced_and_json_is_json(put, encoding, line) -> None:
    out, err = Below(), Below()
    put(out, err, encoding)
    text = "± × · … ‖ é ă 数 \udcff"
    with steady():
        showing.say(text)
        showing.show(text, showing.table("t", ["name", "value"], [["数", "1 ± 2"], ["b", "30"]]))
        showing.show_json({text: text})
        assert lost() is None
    assert err.taken.decode(encoding) == f"{line}\n"
    shown, _, data = out.taken.decode(encoding).partition("{")
    assert shown.startswith(f"{line}\n")
    assert len({len(each) for each in shown.splitlines()[2:] if "数" not in each}) == 1  # the columns are straight
    assert json.loads("{" + data) == {text: text}


# ------------------------------------------------------------------------------------------------- in processes of own

CONDITIONS = [  # command, exit code, part of stderr or None where nothing is told
    ("recipes ls >&-", 1, "stdout: the result was not written (Bad file descriptor)"),
    *(
        pytest.param(*condition, marks=pytest.mark.slow)
        for condition in (
            ("recipes ls >/dev/full", 1, "stdout: the result was not written (No space left on device)"),
            ("recipes ls 2>&-", 0, None),
            ("recipes ls --json >&- 2>&-", 1, None),
            ("nonsense 2>&-", 2, None),
            ("recipes ls 0<&- >&- 2>/dev/full", 1, None),
        )
    ),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("line", "code", "said"), CONDITIONS)
def test_a_command_whose_streams_are_not_there(line, code, said) -> None:
    done = shell(line)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert said is None or said in done.stderr
    assert len(done.stderr.splitlines()) == (0 if said is None else 1)


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_news() -> None:
    done = shell('recipes ls | head -1; echo "${PIPESTATUS[0]}"')
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    limbeck = shlex.join([sys.executable, "-m", "limbeck"])
    return subprocess.run(
        ["bash", "-c", f"{limbeck} {line}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


# ------------------------------------------------------------------------------------------------- what may be pasted

NAMES = [
    "a b",
    "it's",
    'say "x"',
    "$(rm)",
    "x\x1b]0;OWNED\x07",
    "\u202etxt.exe",
    "a\nb",
    "\udcff1",
    "\x1b7'\\",
    "é数",
    "~",
]


@over("name", NAMES)
def test_a_command_is_quoted_so_that_a_shell_reads_the_very_name(name) -> None:
    said = command("printf", "%s", name)
    assert said.isprintable()
    assert subprocess.run(["bash", "-c", said], capture_output=True, check=True).stdout == os.fsencode(name)
    assert plain(said) == said == str(LimbeckError(said))


def test_a_path_is_not_taken_for_an_option() -> None:
    assert command("limbeck", "report", Path("-x"), "--out", "-") == "limbeck report ./-x --out -"


@over("name", ["[red]x[/red]", *NAMES])
def test_names_are_shown_without_markup_or_escapes(capsys, name) -> None:
    showing.show(name, showing.table(name, [name], [[name]]))
    showing.say(name)
    out, err = capsys.readouterr()
    for line in (out + err).splitlines():
        assert "\x1b" not in line
        assert line.isprintable()
    if name.isprintable():
        assert out.count(name) == 4
        assert err == f"{name}\n"
