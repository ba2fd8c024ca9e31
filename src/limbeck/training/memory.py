"""Memory that a training does not get, as an error of one line that names what asked for it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from limbeck.distiller import Distiller
from limbeck.errors import MemoryLimitError, lacks_memory, one_line
from limbeck.training.settings import Training

__all__ = ["enough_memory"]

_ASKED = re.compile(r"tried to allocate ([\d.,]+ (?:bytes|[KMGT]?i?B))", re.IGNORECASE)


@contextmanager
def enough_memory(label: str, distiller: Distiller, training: Training) -> Iterator[None]:
    """Train in the scope; MemoryLimitError where an allocator refuses, in whatever words it does so."""
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        asked = _ASKED.search(str(error))
        reason = f"{asked[1]} were asked for at once" if asked else one_line(error)
        raise MemoryLimitError(
            f"training.batch_size: found {training.batch_size}, but there is not enough memory to train {label}, which"
            f" has {_size(distiller.student)} ({reason}); lower batch_size, raise accumulate, or make the model smaller"
        ) from error


def _size(model: nn.Module) -> str:
    parameters = list(model.parameters())
    bytes_of_all = sum(each.numel() * each.element_size() for each in parameters)
    return f"{sum(each.numel() for each in parameters):,} parameters in {bytes_of_all / 2**20:,.1f} MiB"
