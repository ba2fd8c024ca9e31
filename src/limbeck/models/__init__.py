"""The papers' small networks: one file a family, each with a builder that bears the file's name.

Every builder takes `input_shape` and `classes`, which a recipe fills in from its data, then its own keys.  One whose
inputs are numbers of names, such as users or token ids, takes `vocabulary` too: how many names there are; one for text
can take `max_length`, the longest sequence of the data.

The networks for images name their parts alike, so that a method can name layers by short paths that stay: `stem`,
`stage1`, `stage2` and so on, where there is one a `neck`, then `pool`, whose output (N, d) is the penultimate feature,
and `fc`.  A stage is a sequence of modules: `stage2.0` is a path too.  `mlp` and `residual_tanh` have `flatten` for a
stem, and `fcn`, which answers for every pixel, has no `pool`.  The parts of `vit` bear the names that published vision
transformers have, and a `mixture` has `experts.0` and so on, each with the parts of its kind.  `lstm_lm`
has `embedding`, `layers.0` and so on, `output` and `decoder`.

A network whose layers are rectified says in `preactivations` where to read what the ReLU after a stage reads, by the
stage's name.

The networks of the CIFAR tables of the distillation literature can be called by their names there (`published`):

| names | family |
|---|---|
| resnet8, 14, 20, 32, 44, 56, 110; resnet8x4, resnet32x4 | `resnet` |
| resnet18, 34, 50, 101, 152 | `resnet_imagenet` |
| wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2 | `wrn` |
| vgg8, 11, 13, 16, 19 | `vgg` |
| MobileNetV2, ShuffleV1, ShuffleV2 | `mobilenet_v2`, `shufflenet_v1`, `shufflenet_v2` with their defaults |
"""

import importlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from torch import nn

from limbeck.arguments import checked
from limbeck.card import files_of
from limbeck.errors import ModelError, one_of
from limbeck.models.cnn import cnn
from limbeck.models.config import config
from limbeck.models.fcn import fcn
from limbeck.models.lstm_lm import lstm_lm
from limbeck.models.mixture import mixture
from limbeck.models.mlp import mlp
from limbeck.models.mobilenet_v2 import mobilenet_v2
from limbeck.models.pretrained import pretrained
from limbeck.models.residual_tanh import residual_tanh
from limbeck.models.resnet import resnet
from limbeck.models.resnet_imagenet import resnet_imagenet
from limbeck.models.seq2seq_lstm import seq2seq_lstm
from limbeck.models.shufflenet_v1 import shufflenet_v1
from limbeck.models.shufflenet_v2 import shufflenet_v2
from limbeck.models.timm import timm
from limbeck.models.transformer import transformer
from limbeck.models.two_tower import two_tower
from limbeck.models.vgg import vgg
from limbeck.models.vit import vit
from limbeck.models.wrn import wrn

__all__ = [
    "builder",
    "cnn",
    "config",
    "fcn",
    "kinds",
    "lstm_lm",
    "mixture",
    "mlp",
    "mobilenet_v2",
    "names",
    "pretrained",
    "published",
    "residual_tanh",
    "resnet",
    "resnet_imagenet",
    "seq2seq_lstm",
    "shufflenet_v1",
    "shufflenet_v2",
    "timm",
    "transformer",
    "two_tower",
    "vgg",
    "vit",
    "wrn",
]

_Published = tuple[str, Mapping[str, Any]]
_PUBLISHED: dict[str, _Published] = {
    **{f"resnet{depth}": ("resnet", {"depth": depth}) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": ("resnet", {"depth": depth, "widths": [32, 64, 128, 256]}) for depth in (8, 32)},
    **{f"resnet{depth}": ("resnet_imagenet", {"depth": depth}) for depth in (18, 34, 50, 101, 152)},
    **{f"wrn_{depth}_{width}": ("wrn", {"depth": depth, "width": width}) for depth in (16, 40) for width in (1, 2)},
    "transformers": ("pretrained", {}),
    **{f"vgg{depth}": ("vgg", {"depth": depth}) for depth in (8, 11, 13, 16, 19)},
}


def names() -> list[str]:
    """Return the names of all model families.

    Returns:
        Names, as recipes give them: the files of this package.

    Example:
        >>> "mlp" in names()
        True
    """
    return list(kinds())


@cache
def kinds() -> Mapping[str, Callable[..., nn.Module]]:
    """Return what builds a model of each family, by the name that a recipe gives it.

    >>> kinds()["mlp"] is mlp
    True
    """
    files = [name for name in files_of(__path__) if name != "layers"]
    return {name: getattr(importlib.import_module(f"{__name__}.{name}"), name) for name in files}


def published() -> Mapping[str, _Published]:
    """Return the family and its keys for the name that the literature, or another library, gives a network.

    Returns:
        {name: (family, keys)}; a recipe's `kind` can be such a name.

    Example:
        >>> published()["resnet8x4"]
        ('resnet', {'depth': 8, 'widths': [32, 64, 128, 256]})
    """
    return dict(_PUBLISHED)


@checked
def builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds a model of a family, or one that the literature has a name for.

    Args:
        name: one of `names()` or of `published()`.

    Returns:
        A function from input shape, classes and the family's settings to a network.

    Raises:
        ModelError: if there is no such model.

    Example:
        >>> builder("mlp")((8,), 3, hidden=(4,))(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
        >>> sum(p.numel() for p in builder("resnet20")((3, 32, 32), 100).parameters())
        278324
    """
    if name in _PUBLISHED:
        family, keys = _PUBLISHED[name]
        return partial(kinds()[family], **keys)
    if name not in kinds():
        raise ModelError(f"model: there is no model '{name}'; {one_of(name, kinds())}")
    return kinds()[name]
