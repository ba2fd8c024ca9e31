"""Shell completion: the shells' own scripts are printed, and what they ask is answered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("limbeck")
ENTRY = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-c", "from limbeck.cli import main; main()"]


def completed(shell: str, typed: str) -> list[str]:
    """Return what the shell is told when Tab is pressed after `typed`."""
    words = typed.split(" ")
    bash = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    other = {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = {**os.environ, "_LIMBECK_COMPLETE": f"complete_{shell}", **(bash if shell == "bash" else other)}
    done = subprocess.run(ENTRY, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.miniature(1)
@pytest.mark.parametrize("verb", ["evaluate", "recipes"])
def test_a_verb_is_completed(verb):
    assert completed("bash", f"limbeck {verb[:-1]}") == [verb]


@pytest.mark.thorough
def test_an_option_and_a_command_below_a_command_are_completed():
    assert set(completed("bash", "limbeck recipes ")) == {"ls", "show", "cp"}
    assert completed("bash", "limbeck evaluate --no-c") == ["--no-cost"]


@pytest.mark.thorough
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_told_what_the_verb_does(shell):
    (line,) = completed(shell, "limbeck eval")
    assert "evaluate" in line
    assert "Measure a finished run" in line


@pytest.mark.thorough
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [*ENTRY, "--show-completion", shell], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"_LIMBECK_COMPLETE=complete_{shell}" in done.stdout
    assert "limbeck" in done.stdout
