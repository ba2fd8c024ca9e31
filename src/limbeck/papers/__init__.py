"""Papers' tables: each a folder with table.yaml, a card and recorded results; one runner carries all of them out."""

from limbeck.papers.recorded import comparison, expected, markdown, merge, misses, record
from limbeck.papers.runner import reproduce
from limbeck.papers.table import FigureSpec, Row, Table, load_table, read_table, tables

__all__ = [
    "FigureSpec",
    "Row",
    "Table",
    "comparison",
    "expected",
    "load_table",
    "markdown",
    "merge",
    "misses",
    "read_table",
    "record",
    "reproduce",
    "tables",
]
