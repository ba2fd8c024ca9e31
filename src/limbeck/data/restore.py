"""Pairs without parallel text: a source is its target without some characters, which are to be restored."""

from collections.abc import Iterable
from dataclasses import dataclass

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.errors import InputError

__all__ = ["Restore"]


@checked_fields
@dataclass(frozen=True)
class Restore:
    """Make pairs of single texts, by leaving characters out of the source.

    Attributes:
        drop: the characters that are left out of sources, such as vowels and spaces; they are to be restored.
        shortest: the fewest characters of a target; shorter ones are left out.
        longest: the most characters of a target; longer ones are left out, or cut.
        cut: cut longer texts at their spaces into targets of at most `longest` characters.

    Raises:
        InputError: if no character is dropped, or the lengths are out of range.

    Example:
        >>> Restore(drop="aeiou ").pairs(["a good film", "ace"])
        [('gdflm', 'a good film'), ('c', 'ace')]
    """

    drop: str = "aeiou "
    shortest: int = 1
    longest: int | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        if not self.drop:
            raise InputError("drop: found no character; expected those that are left out of sources, such as 'aeiou '")
        checks.at_least("shortest", self.shortest, 1)
        if self.longest is not None:
            checks.at_least("longest", self.longest, self.shortest)
        elif self.cut:
            raise InputError("cut: found true without longest; set longest, or leave cut out")

    def pairs(self, texts: Iterable[str]) -> list[tuple[str, str]]:
        """Return (source, target) of each text that is long enough and has a source, without spaces at its ends.

        >>> Restore(shortest=4, longest=9, cut=True).pairs(["one two three four", "by"])
        [('ntw', 'one two'), ('thr', 'three'), ('fr', 'four')]
        """
        found = []
        for text in texts:
            for target in self._parts(text.strip()):
                source = "".join(sign for sign in target if sign not in self.drop)
                if source and self.shortest <= len(target) <= (self.longest or len(target)):
                    found.append((source, target))
        return found

    def _parts(self, text: str) -> list[str]:
        if not self.cut or self.longest is None or len(text) <= self.longest:
            return [text]
        parts = [""]
        for word in text.split():
            longer = f"{parts[-1]} {word}".strip()
            if len(longer) <= self.longest:
                parts[-1] = longer
            else:
                parts.append(word)
        return parts
