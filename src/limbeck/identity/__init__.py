"""What decides a result, in digests: what a network is and does, and the code that it is written in."""

from limbeck.identity.content import content_digest, network_digests
from limbeck.identity.modules import importing
from limbeck.identity.networks import weights_digest
from limbeck.identity.sources import code_identity, is_library, is_local

__all__ = [
    "code_identity",
    "content_digest",
    "importing",
    "is_library",
    "is_local",
    "network_digests",
    "weights_digest",
]
