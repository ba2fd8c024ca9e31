"""Vision transformers (Dosovitskiy et al. 2021), with or without the distillation token of Touvron et al. (2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError
from limbeck.models.layers import StochasticDepth, check_images, check_survival, survivals
from limbeck.outputs import Outputs

__all__ = ["CLASS", "DISTILLATION", "Attention", "Block", "PatchEmbedding", "VisionTransformer", "vit"]

CLASS, DISTILLATION = "class", "distillation"
"""The two heads of a network with a distillation token, by their names among the outputs' `heads`."""

_SPREAD = 0.02


class PatchEmbedding(nn.Module):
    """Cut images (N, C, H, W) into squares and give each a vector: (N, L, width), row by row from the top.

    Images that are no multiple of the square's side are padded with zeros at the right and at the bottom.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        below, beside = (-size % self.patch for size in images.shape[2:])
        embedded: Tensor = self.proj(functional.pad(images, (0, beside, 0, below)))
        return embedded.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(QKᵀ/√d)·V in each head, the heads side by side, then a linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (N, L, 3, heads, d)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def extra_repr(self) -> str:
        """Return what the layers do not say."""
        return f"heads={self.heads}"


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return made


class Block(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, survival: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)
        self.drop = nn.Identity() if survival == 1 else StochasticDepth(survival)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop(self.attn(self.norm1(tokens)))
        summed: Tensor = tokens + self.drop(self.mlp(self.norm2(tokens)))
        return summed


class VisionTransformer(nn.Module):
    """Patches and one or two tokens of its own through pre-norm blocks, and a linear layer on each of these tokens.

    Parameters bear the names of the published DeiT: patch_embed.proj, cls_token, dist_token, pos_embed,
    blocks.0.attn.qkv and so on, norm, head, head_dist.

    Gives logits (N, classes); with a distillation token `Outputs`, whose logits are the logarithm of the mean of both
    heads' probabilities, in training too, and whose `heads` are the logits of "class" and "distillation".
    """

    def __init__(
        self, patches: PatchEmbedding, count: int, blocks: Sequence[Block], classes: int, *, distill: bool
    ) -> None:
        super().__init__()
        width = patches.proj.out_channels
        self.patch_embed = patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if distill else None
        self.pos_embed = nn.Parameter(torch.zeros(1, count + 1 + distill, width))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        self.head_dist = nn.Linear(width, classes) if distill else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _normal(module.weight)
                nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.dist_token, self.pos_embed):
            if token is not None:
                _normal(token)

    def forward(self, images: Tensor) -> Tensor | Outputs:
        patches = self.patch_embed(images)
        own = [self.cls_token] if self.dist_token is None else [self.cls_token, self.dist_token]
        tokens = torch.cat([*(token.expand(patches.shape[0], -1, -1) for token in own), patches], 1)
        if tokens.shape[1] != self.pos_embed.shape[1]:
            raise ModelError(
                f"vit: images of shape {tuple(images.shape[1:])} make {patches.shape[1]} patches, it was built for"
                f" {self.pos_embed.shape[1] - len(own)}; give it images of one size"
            )
        normed = self.norm(self.blocks(tokens + self.pos_embed))
        logits: Tensor = self.head(normed[:, 0])
        if self.head_dist is None:
            return logits
        heads = {CLASS: logits, DISTILLATION: self.head_dist(normed[:, 1])}
        return Outputs(_mean(*heads.values()), heads=heads)

    def extra_repr(self) -> str:
        """Return the shapes of what is no module's."""
        return f"positions={tuple(self.pos_embed.shape)}"


def _mean(first: Tensor, second: Tensor) -> Tensor:
    """Return log(½ softmax(a) + ½ softmax(b)), in float32 at least."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    logs = torch.stack([logits.to(dtype).log_softmax(-1) for logits in (first, second)])
    return logs.logsumexp(0) - torch.log(torch.tensor(2.0, dtype=dtype, device=logs.device))


def _normal(tensor: Tensor) -> None:
    """Draw in place from a normal distribution that is cut off at two deviations."""
    nn.init.trunc_normal_(tensor, std=_SPREAD, a=-2 * _SPREAD, b=2 * _SPREAD)


@checked
def vit(
    input_shape: Sequence[int],
    classes: int,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    survival: float = 1.0,
    distillation_token: bool = False,
) -> VisionTransformer:
    """Build a vision transformer with pre-norm blocks, GELU, learned positions and a class token.

    Parts: patch_embed, blocks, norm, head.  DeiT-Ti is `patch=16, width=192, depth=12, heads=3` for images of 224
    pixels.

    Args:
        input_shape: (C, H, W), at least one patch.
        classes: K.
        patch: side of a patch in pixels.
        width: of a token; the mlp is four times as wide.
        depth: the number of blocks.
        heads: of each attention; the width is a multiple of it.
        survival: of the last block under stochastic depth, falling linearly from 1; 1 for none.
        distillation_token: add a second token with a head of its own, which a teacher trains (method `deit`).

    Returns:
        A network from (N, C, H, W) to logits (N, K), or to `Outputs` with two heads.

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> model = vit((3, 32, 32), 10, distillation_token=True)
        >>> outputs = model(torch.zeros(2, 3, 32, 32))
        >>> outputs.logits.shape, sorted(outputs.heads)
        (torch.Size([2, 10]), ['class', 'distillation'])

    Reference:
        Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words", arXiv:2010.11929; Touvron et al. (2021),
        arXiv:2012.12877, for the distillation token.
    """
    for name, value in (("classes", classes), ("patch", patch), ("width", width), ("depth", depth), ("heads", heads)):
        checks.at_least(name, value, 1)
    check_survival(survival)
    if width % heads:
        raise InputError(f"heads: found {heads} for a width of {width}, expected a divisor of it")
    channels = check_images("vit", input_shape, halvings=0)
    if min(input_shape[1:]) < patch:
        height, across = input_shape[1:]
        raise ModelError(f"kind: vit cuts images into squares of {patch} pixels, found {height}×{across}; set patch")
    count = -(-input_shape[1] // patch) * -(-input_shape[2] // patch)
    blocks = [Block(width, heads, 4 * width, chance) for chance in survivals(depth, survival)]
    return VisionTransformer(PatchEmbedding(channels, width, patch), count, blocks, classes, distill=distillation_token)
