"""Parts of a set: which files are for which, a share that is held out for testing, and no sample in two parts."""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from limbeck.errors import DataError, InputError
from limbeck.randomness import permutation

__all__ = ["apart", "files_by_part", "held_out"]

_Row = TypeVar("_Row")
_VALIDATION = re.compile(r"val(id(ation)?)?(?![a-z])")
_JUDGED_BY = {"validation": ("test",), "train": ("test", "validation")}
_WORDS = {"train": "training", "validation": "validation"}


def files_by_part(where: str, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files whose names begin with "train", "test" and "validation"; nothing where no name does.

    "validation" may be missing, and may be written "val" or "valid".  Raises DataError where one of the others has no
    file.

    >>> parts = files_by_part("set", [Path("train-0.tar"), Path("train-1.tar"), Path("test.tar"), Path("val-0.tar")])
    >>> {part: len(own) for part, own in parts.items()}
    {'train': 2, 'test': 1, 'validation': 1}
    """
    parts = {part: [each for each in files if each.name.startswith(part)] for part in ("train", "test")}
    parts["validation"] = [each for each in files if _VALIDATION.match(each.stem)]
    if not any(parts.values()):
        return {}
    for part in ("train", "test"):
        if not parts[part]:
            ending = files[0].suffix
            raise DataError(f"{where}: has no {part}*{ending} beside the others; add it, or name none train or test")
    return {part: own for part, own in parts.items() if own}


def held_out(rows: Sequence[_Row], share: float, seed: int, what: str) -> tuple[list[_Row], list[_Row]]:
    """Return rows without a share of them, and that share, drawn by the seed; both keep their order.

    what: the rows are called, such as "pairs".
    Raises InputError for a share that leaves one of the two empty.

    >>> held_out("abcd", 0.25, 0, "letters")
    (['a', 'c', 'd'], ['b'])
    """
    if not 0 < share < 1 or not 0 < round(share * len(rows)) < len(rows):
        raise InputError(f"test_share: found {share!r} of {len(rows)} {what}; expected a share in (0, 1) of several")
    drawn = set(permutation(seed, f"held out {what}", 0, len(rows))[: round(share * len(rows))].tolist())
    rest = [row for number, row in enumerate(rows) if number not in drawn]
    return rest, [row for number, row in enumerate(rows) if number in drawn]


def apart(name: str, keys: Mapping[str, Sequence[Hashable]], notes: list[str], what: str) -> dict[str, list[int]]:
    """Return the places of the samples that each part keeps, so that no sample is in two parts.

    A training sample that is also in the test or validation part is left out, and so is a validation sample that is
    also in the test part; a note says how many there were.

    keys: of each part ("train", "test", "validation"), what equal samples have in common.
    what: the samples are called, such as "pairs".
    Raises DataError where a part is left empty.

    >>> notes = []
    >>> apart("films", {"train": "abca", "validation": "cd", "test": "a"}, notes, "films")
    {'train': [1], 'validation': [0, 1], 'test': [0]}
    >>> notes[0]
    'films: 2 training films are also in the test part; left out of training'
    """
    kept = {part: list(range(len(own))) for part, own in keys.items()}
    for part, others in _JUDGED_BY.items():
        if part not in keys:
            continue
        for other in others:
            there = set(keys.get(other, ()))
            left = [place for place in kept[part] if keys[part][place] not in there]
            if len(left) < len(kept[part]):
                notes.append(
                    f"{name}: {len(kept[part]) - len(left):,} {_WORDS[part]} {what} are also in the {other} part; left"
                    f" out of {_WORDS[part]}"
                )
            kept[part] = left
        if not kept[part]:
            raise DataError(
                f"{name}: found every {_WORDS[part]} {what.removesuffix('s')} in the {' or '.join(others)} part too;"
                " expected others"
            )
    return kept
