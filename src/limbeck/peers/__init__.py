"""Peers: networks that learn at the same time and teach each other, in one process.

Each trains through the one loop; its teacher is what the others have published of themselves.
"""

from limbeck.peers.distiller import Others, PeerDistiller, circle, mean_over_peers, own_part, published_copy
from limbeck.peers.together import Peer, fit_together
from limbeck.peers.turns import Turn

__all__ = [
    "Others",
    "Peer",
    "PeerDistiller",
    "Turn",
    "circle",
    "fit_together",
    "mean_over_peers",
    "own_part",
    "published_copy",
]
