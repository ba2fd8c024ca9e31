"""How many bytes a network takes on disk."""

from limbeck.exporting import exported_bytes
from limbeck.papers.measures import RowView

__all__ = ["kilobytes"]


def kilobytes(view: RowView) -> float:
    """Return the size of the file that a row's network is exported as, in thousands of bytes."""
    return exported_bytes(view.model(view.row.role)) / 1000
