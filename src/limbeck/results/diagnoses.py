"""Diagnoses in the folders of their runs."""

from pathlib import Path

from limbeck.diagnosis.diagnosing import Diagnosis
from limbeck.errors import command
from limbeck.results.measurements import Content, newest_of, write_once

__all__ = ["keep", "newest"]


def keep(found: Diagnosis, folder: Path, *, again: str | None = None) -> Path:
    """Write a diagnosis into its run folder and return where it lies; nothing is overwritten (see `write_once`).

    again: the command to repeat where it cannot be written; by default that for the run which the folder holds.
    """
    again = again or command("limbeck", "diagnose", folder)
    return write_once(found, folder, "diagnosis", again=again, timeless=_timeless)


def newest(folder: Path) -> Diagnosis | None:
    """Return the newest diagnosis of a run, None where there is none; RunError when it is damaged or of old."""
    return newest_of(Diagnosis, folder, "diagnosis", "diagnose")


def _timeless(content: Content, _: Content) -> Content:
    return {**content, "seconds": None}
