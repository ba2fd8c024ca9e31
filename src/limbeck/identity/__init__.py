"""What decides a result: the code that a network is written in."""

from limbeck.identity.modules import importing
from limbeck.identity.sources import code_identity, is_library, is_local

__all__ = ["code_identity", "importing", "is_library", "is_local"]
