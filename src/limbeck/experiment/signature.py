"""What it takes to use a run's weights without its data: `signature.json`, written beside them."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from limbeck.data import Description
from limbeck.errors import InputError, RunError, command, one_line
from limbeck.experiment.prepare import Parts
from limbeck.records import sealed, unsealed
from limbeck.runs import RunFolder

__all__ = ["SIGNATURE", "Signature", "read_signature", "write_signature"]

SIGNATURE = "signature.json"
_FORMAT = 1


@dataclass(frozen=True)
class Signature:
    """What the models of a run take and answer.

    Attributes:
        students: of the students, and of the teacher where it knows the same classes.
        teacher: of the teacher as it was trained, where the students serve some of its classes; else None.
        format: of the file; raised whenever its keys change their meaning.
    """

    students: Description
    teacher: Description | None = None
    format: int = _FORMAT

    @classmethod
    def of(cls, parts: Parts) -> "Signature":
        """Describe the sets of a run."""
        return cls(Description.of(parts.train), None if parts.taught is None else Description.of(parts.taught.train))

    def parts(self) -> Parts:
        """Return blank sets, by which the run's networks can be built as they were."""
        taught = None if self.teacher is None else Signature(self.teacher).parts()
        blank = self.students.blank()
        return Parts(blank, None, blank, blank, blank, taught)


_READER = TypeAdapter(Signature)


def write_signature(folder: RunFolder, parts: Parts) -> None:
    """Write what the models of a run take and answer."""
    folder.write_json(SIGNATURE, sealed(_READER.dump_python(Signature.of(parts), mode="json")))


def read_signature(folder: Path) -> Signature:
    """Read what the models of a run take and answer; RunError where it is missing or damaged."""
    path, again = folder / SIGNATURE, command("limbeck", "distill", folder / "recipe.yaml")
    if not path.is_file():
        raise RunError(
            f"'{folder}': found no {SIGNATURE}; expected it beside the weights. Run the recipe again: {again}"
        )
    try:
        found: Signature = _READER.validate_python(unsealed(json.loads(path.read_text(encoding="utf-8"))))
        if found.format != _FORMAT:
            raise ValueError(f"format {found.format}, expected {_FORMAT}")
    except (OSError, ValueError, RecursionError, InputError) as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); run the recipe again: {again}") from None
    return found
