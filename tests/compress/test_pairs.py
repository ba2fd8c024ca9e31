"""Two transforms one behind the other: the network can be stored and read in both forms, or one line says why not."""

import itertools

import pytest
import torch
from torch import nn

from limbeck.compress import Codes, LowRank, Prune, Quantize, Share, Units, rebuilt, records_of, settled
from limbeck.errors import LimbeckError
from walk import over

EVERY = {"skip": ()}
TRANSFORMS = {
    "low_rank": LowRank(rank=4, **EVERY),
    "prune": Prune(**EVERY),
    "ramp": Prune(ramp_steps=3, every=1, **EVERY),
    "movement": Prune(by="movement", ramp_steps=3, every=1, **EVERY),
    "units": Units(select=("2",)),
    "codes": Codes(bits=3, **EVERY),
    "int8": Quantize(**EVERY),
    "int4": Quantize(to="int4", **EVERY),
    "fp16": Quantize(to="fp16", **EVERY),
    "share": Share(owner="2", others=("4",)),
}
REFUSED = {
    *itertools.product(["codes", "int8", "int4", "fp16"], TRANSFORMS),
    *itertools.product(["prune", "ramp", "movement"], ["low_rank", "units", "share"]),
    *[("low_rank", "low_rank"), ("units", "share"), ("share", "units"), ("share", "share")],
}
INPUTS = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)]
    return nn.Sequential(*itertools.chain.from_iterable((layer, nn.ReLU()) for layer in layers))[:-1]


@pytest.mark.thorough
@over("first, second", sorted({*itertools.product(TRANSFORMS, TRANSFORMS)} - REFUSED))
def test_a_pair_of_transforms_can_be_stored_and_read(first, second):
    both, _ = TRANSFORMS[second].apply(TRANSFORMS[first].apply(network())[0])
    for stored in (both, settled(both)):
        read = rebuilt(network(), records_of(stored))
        read.load_state_dict(stored.state_dict())
        assert torch.equal(read.eval()(INPUTS), stored.eval()(INPUTS))


@over("first, second", sorted(REFUSED))
def test_other_pairs_are_refused_in_one_line(first, second):
    model, _ = TRANSFORMS[first].apply(network())
    with pytest.raises(LimbeckError, match=r"^\w+: ") as caught:
        TRANSFORMS[second].apply(model)
    assert "\n" not in str(caught.value)


@over("kind", ["low_rank", "units", "share"])
def test_what_builds_layers_anew_comes_before_masks(kind):
    masked, _ = Prune(**EVERY).apply(network())
    with pytest.raises(LimbeckError, match=f"its weight is masked, quantised or shared already; put {kind} before"):
        TRANSFORMS[kind].apply(masked)
