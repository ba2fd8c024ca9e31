"""The papers' small networks: one file a family, each with a builder that bears the file's name.

Every builder takes `input_shape` and `classes`, which a recipe fills in from its data, then its own keys.

The networks for images name their parts alike, so that a hint can name them by short paths that stay: `stem`, `stage1`,
`stage2` and so on, where there is one a `neck`, then `pool`, whose output (N, d) is the penultimate feature, and `fc`.
A stage is a sequence of blocks: `stage2.0` is a path too.  `mlp` and `cnn` are plain sequences with numbered parts, the
parts of `vit` bear the names that published vision transformers have, and a `mixture` has `experts.0` and so on.

The networks of the CIFAR tables of the distillation literature:

| there | here |
|---|---|
| resnet8, 14, 20, 32, 44, 56, 110 | `resnet` with that depth |
| resnet8x4, resnet32x4 | `resnet` with depth 8 or 32 and widths [32, 64, 128, 256] |
| wrn_16_1, 16_2, 40_1, 40_2 | `wrn` with depth 16 or 40 and width 1 or 2 |
| vgg8, 11, 13, 16, 19 | `vgg` with that depth |
| MobileNetV2 | `mobilenet_v2` |
| ShuffleV1, ShuffleV2 | `shufflenet_v1`, `shufflenet_v2` |
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

from torch import nn

from limbeck.arguments import checked
from limbeck.errors import ModelError, one_of
from limbeck.models.cnn import cnn
from limbeck.models.fcn import fcn
from limbeck.models.mixture import mixture
from limbeck.models.mlp import mlp
from limbeck.models.mobilenet_v2 import mobilenet_v2
from limbeck.models.residual_tanh import residual_tanh
from limbeck.models.resnet import resnet
from limbeck.models.shufflenet_v1 import shufflenet_v1
from limbeck.models.shufflenet_v2 import shufflenet_v2
from limbeck.models.vgg import vgg
from limbeck.models.vit import vit
from limbeck.models.wrn import wrn

__all__ = [
    "builder",
    "cnn",
    "fcn",
    "kinds",
    "mixture",
    "mlp",
    "mobilenet_v2",
    "names",
    "residual_tanh",
    "resnet",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg",
    "vit",
    "wrn",
]


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
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return {name: getattr(importlib.import_module(f"{__name__}.{name}"), name) for name in files}


@checked
def builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds a model of a family.

    Args:
        name: one of `names()`.

    Returns:
        A function from input shape, classes and the family's settings to a network.

    Raises:
        ModelError: if there is no such model.

    Example:
        >>> builder("mlp")((8,), 3, hidden=(4,))(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """
    if name not in kinds():
        raise ModelError(f"model: there is no model '{name}'; {one_of(name, kinds())}")
    return kinds()[name]
