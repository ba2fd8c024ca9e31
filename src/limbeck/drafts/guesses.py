"""Guesses about the columns of a table: the label, the text, and what says nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.data.cells import is_blank, is_missing, is_number
from limbeck.data.dates import days_of

__all__ = ["ColumnFacts", "facts_of", "label_of", "says_nothing", "text_of"]

_LABELS = ("label", "labels", "target", "class", "y", "outcome", "category", "diagnosis", "response", "sentiment")
_PERHAPS = ("species", "survived", "churn", "default", "quality", "rating", "score", "price", "result", "type", "gold")
_TEXTS = ("text", "sentence", "review", "content", "message", "comment", "question", "title", "body")
_NUMBERS_OF_ROWS = re.compile(r"(.*[_ -])?(id|index|uuid|guid|row|key)|unnamed: \d+", re.IGNORECASE)
_MOST_CATEGORIES = 200
_MOST_NUMBERS = 50
_WORDS_OF_A_TEXT = 3.0


@dataclass(frozen=True)
class ColumnFacts:
    """What a column holds.

    Attributes:
        name: of the column.
        numbers: whether all its cells with a value are numbers.
        distinct: how many different values it has.
        rows: how many cells have a value.
        missing: how many have none.
        words: in a cell, in the mean.
        dates: whether all its cells with a value are dates.
    """

    name: str
    numbers: bool
    distinct: int
    rows: int
    missing: int
    words: float
    dates: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its cells are running text."""
        return not (self.numbers or self.dates) and self.words >= _WORDS_OF_A_TEXT and self.distinct > self.rows / 2

    @property
    def can_be_label(self) -> bool:
        """Whether it can be predicted: numbers, or few names."""
        return (
            self.distinct > 1
            and not (self.is_text or self.dates)
            and (self.numbers or self.distinct <= _MOST_CATEGORIES)
        )

    @property
    def is_amount(self) -> bool:
        """Whether as a label it is a number to predict, and no class."""
        return self.numbers and self.distinct > _MOST_NUMBERS


def facts_of(columns: Mapping[str, Sequence[str]]) -> list[ColumnFacts]:
    """Return what each column holds.

    >>> [(each.name, each.numbers, each.distinct) for each in facts_of({"a": ["1", "2", ""], "b": ["x", "x", "y"]})]
    [('a', True, 2), ('b', False, 2)]
    """
    found = []
    for name, cells in columns.items():
        numbers = [cell for cell in cells if not is_missing(cell)]
        all_numbers = bool(numbers) and all(map(is_number, numbers))
        values = numbers if all_numbers else [cell for cell in cells if not is_blank(cell)]
        words = sum(len(cell.split()) for cell in values) / max(1, len(values))
        dates = not all_numbers and days_of(cells) is not None
        missing = len(cells) - len(values)
        found.append(ColumnFacts(name, all_numbers, len(set(values)), len(values), missing, words, dates))
    return found


def label_of(columns: Sequence[ColumnFacts]) -> str | None:
    """Return the column that is probably the label: by its name, or the last one that can be; None for none.

    >>> label_of(facts_of({"Species": ["a", "b"], "width": ["1", "2"]}))
    'Species'
    """
    possible = [each.name for each in columns if each.can_be_label]
    for names in (_LABELS, _PERHAPS):
        for name in names:
            if found := next((each for each in possible if each.casefold() == name), None):
                return found
        if found := next((each for each in possible if set(names) & set(re.split(r"[\W_]+", each.casefold()))), None):
            return found
    kept = [each for each in possible if not _NUMBERS_OF_ROWS.fullmatch(each)]
    return kept[-1] if kept else None


def text_of(columns: Sequence[ColumnFacts]) -> str | None:
    """Return the column that is running text, the longest of several; None for none."""
    texts = [each for each in columns if each.is_text]
    named = [each for each in texts if each.name.casefold() in _TEXTS]
    return max(named or texts, key=lambda each: each.words).name if texts else None


def says_nothing(column: ColumnFacts) -> str | None:
    """Return why a column should be left out; None for one that may help."""
    if _NUMBERS_OF_ROWS.fullmatch(column.name) and column.distinct == column.rows:
        return f"'{column.name}' numbers the rows"
    if not (column.numbers or column.dates) and column.distinct > _MOST_CATEGORIES:
        return f"'{column.name}' has {column.distinct:,} different texts"
    if column.distinct == 0:
        return f"'{column.name}' is empty"
    return None
