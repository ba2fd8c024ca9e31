"""What it takes to use a run's weights without its data: `signature.json`, written beside them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from limbeck.data import Description
from limbeck.errors import DataError, InputError, RunError, command, one_line
from limbeck.experiment.parts import Parts
from limbeck.records import sealed, unsealed
from limbeck.runs import RunFolder
from limbeck.tokenizers import Tokenizer
from limbeck.training.checkpoints import write_json

__all__ = ["SIGNATURE", "Signature", "read_signature", "save_signature", "write_signature"]

SIGNATURE = "signature.json"
_FORMAT = 1
_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Signature:
    """What the models of a run take and answer.

    Attributes:
        students: of the students, and of the teacher where it knows the same classes.
        teacher: of the teacher as it was trained, where the students serve some of its classes; else None.
        fingerprint: of the tokenizer of texts, which lies in a folder beside the file; empty without one.
        format: of the file; raised whenever its keys change their meaning.
    """

    students: Description
    teacher: Description | None = None
    fingerprint: str = ""
    format: int = _FORMAT

    @classmethod
    def of(cls, parts: Parts) -> "Signature":
        """Describe the sets of a run."""
        students = Description.of(parts.train)
        teacher = None if parts.taught is None else Description.of(parts.taught.train)
        return cls(students, teacher, "" if students.tokenizer is None else students.tokenizer.fingerprint)

    def apart(self) -> "Signature":
        """Return the signature without its tokenizer and the names of its tokens, which the tokenizer has."""
        return self._each(
            lambda found: replace(
                found,
                tokenizer=None,
                vocabulary=() if found.tokenizer is not None else found.vocabulary,
                class_names=() if _are_tokens(found, found.tokenizer) else found.class_names,
            )
        )

    def together(self, tokenizer: Tokenizer) -> "Signature":
        """Return the signature with its tokenizer and the names of its tokens."""
        return self._each(
            lambda found: replace(
                found,
                tokenizer=tokenizer,
                vocabulary=tokenizer.names,
                class_names=tokenizer.names if not found.class_names else found.class_names,
            )
        )

    def _each(self, change: Callable[[Description], Description]) -> "Signature":
        return replace(
            self, students=change(self.students), teacher=None if self.teacher is None else change(self.teacher)
        )

    def parts(self) -> Parts:
        """Return blank sets, by which the run's networks can be built as they were."""
        taught = None if self.teacher is None else Signature(self.teacher).parts()
        blank = self.students.blank()
        return Parts(blank, None, blank, blank, blank, taught)


_READER = TypeAdapter(Signature)


def write_signature(folder: RunFolder, parts: Parts) -> None:
    """Write what the models of a run take and answer."""
    signature = Signature.of(parts)
    folder.write_json(SIGNATURE, sealed(_READER.dump_python(signature.apart(), mode="json")))
    if (tokenizer := signature.students.tokenizer) is not None:
        folder.save(_TOKENIZER, tokenizer.save)


def save_signature(folder: Path, signature: Signature) -> None:
    """Write a signature into any folder, with its tokenizer."""
    write_json(folder / SIGNATURE, sealed(_READER.dump_python(signature.apart(), mode="json")))
    if (tokenizer := signature.students.tokenizer) is not None:
        tokenizer.save(folder / _TOKENIZER)


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
    if not found.fingerprint:
        return found
    try:
        tokenizer = Tokenizer.load(folder / _TOKENIZER)
    except DataError as error:
        raise RunError(f"{error}, or run the recipe again: {again}") from None
    if tokenizer.fingerprint != found.fingerprint:
        raise RunError(
            f"'{folder / _TOKENIZER}': found tokenizer {tokenizer.fingerprint[:12]}; expected {found.fingerprint[:12]},"
            f" with which the run was trained. Put the run's own back, or run the recipe again: {again}"
        )
    return found.together(tokenizer)


def _are_tokens(found: Description, tokenizer: Tokenizer | None) -> bool:
    """Whether the classes are the tokens of the vocabulary."""
    return tokenizer is not None and found.class_names == tokenizer.names
