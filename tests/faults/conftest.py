"""An undisturbed run of the command line, to which the broken ones are compared."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from faults import DISTILL, Changes, Whole, bits, command, full, furnished, run_of, warm


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a recipe and its data."""
    return furnished(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = furnished(tmp_path_factory.mktemp("whole"))
    counts = {}

    def counted(name: str, *arguments: object) -> None:
        def prepare() -> None:
            changes = Changes(folder, 10**9, full, once=True)
            changes.watch()
            real_exit = os._exit

            def exit_(code: int) -> None:
                print(f"\nchanges {changes.seen}")
                sys.stdout.flush()
                real_exit(code)

            os._exit = exit_

        answer = command(folder, *arguments, prepare=prepare)
        assert answer.code == 0, answer.err
        counts[name] = int(answer.out.rsplit("changes ", 1)[1])

    warm(folder)
    counted("distill", *DISTILL)
    run = run_of(folder)
    counted("report", "report", run)
    counted("evaluate", "evaluate", run, "--no-cost", "-q")
    (run / "evaluation.json").rename(folder / "evaluation.json")
    shutil.rmtree(run / "figures")
    (run / "report.html").unlink()
    return Whole(folder, bits(run), counts)
