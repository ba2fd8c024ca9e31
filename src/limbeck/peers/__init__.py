"""Peers: networks that learn at the same time and teach each other, in one process or in groups of processes.

Each trains through the one loop; its teacher is what the others have published of themselves.
"""

from limbeck.peers.distiller import Others, PeerDistiller, circle, mean_over_peers, own_part, published_copy
from limbeck.peers.exchange import Exchange
from limbeck.peers.groups import fit_group
from limbeck.peers.predictions import Predictions
from limbeck.peers.together import Peer, fit_together, publications

__all__ = [
    "Exchange",
    "Others",
    "Peer",
    "PeerDistiller",
    "Predictions",
    "circle",
    "fit_group",
    "fit_together",
    "mean_over_peers",
    "own_part",
    "publications",
    "published_copy",
]
