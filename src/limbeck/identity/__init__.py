"""What decides a result, in digests: what a network is and does, and the code that it is written in."""

from limbeck.identity.content import content_digest, network_digests
from limbeck.identity.factories import Factory
from limbeck.identity.modules import importing
from limbeck.identity.networks import weights_digest
from limbeck.identity.sources import code_identity, is_library, is_local
from limbeck.identity.tensors import known_from_files, read_from_files

__all__ = [
    "Factory",
    "code_identity",
    "content_digest",
    "importing",
    "is_library",
    "is_local",
    "known_from_files",
    "network_digests",
    "read_from_files",
    "weights_digest",
]
