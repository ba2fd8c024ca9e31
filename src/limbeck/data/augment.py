"""Augmentation as a pure function of (seed, view, sample index), drawn and applied for a whole batch at once."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data import colours, mixing
from limbeck.data.randaugment import RandAugment
from limbeck.errors import DataError, InputError
from limbeck.identity import content_digest
from limbeck.randomness import normal, uniform

__all__ = ["Augment"]

_MOST_NOISE = 1e30
_MOST_COLOUR = 100
_COLOURS = {"brightness": colours.brightness, "contrast": colours.contrast, "saturation": colours.saturation}


@checked_fields
@dataclass(frozen=True)
class Augment:
    """How a random view of a sample differs from the sample.

    The order is flip, shift, randaugment, brightness, contrast, saturation, noise, mixing; all are applied before the
    set's normalisation.

    Attributes:
        shift: move each image by a whole number of pixels, uniform in [-shift, shift] down and across, and fill with
            zeros.
        pad_crop: pad with zeros by this many pixels, then crop at random to the original size; the same distribution as
            `shift`, under the name that papers on colour images use.  Only one of the two may be given.
        flip: probability of mirroring an image left to right.
        noise: standard deviation of Gaussian noise added to every value: to pixels in [0, 1], and to the standardised
            columns of a table.
        brightness: r, for pixels in [0, 1]: a factor is drawn for each image, uniform in [max(0, 1-r), 1+r] (formulas
            in `limbeck.data.colours`).
        contrast: r, as for `brightness`.
        saturation: r, as for `brightness`.
        mixup: α of Beta(α, α), from which each sample draws its share; the rest is another sample of the set, itself a
            view, and the two are added.  The paper draws one number a batch; here each sample has its own.
        cutmix: α, as for `mixup`, but a box of the other image is pasted in.
        switch: with both mixup and cutmix, the probability of cutmix.
        randaugment: random operations of one strength, for pixels in [0, 1].
        other_view: add a second view of the samples to each batch as `views["other"]`, drawn like the first; not
            together with mixing.

    Raises:
        InputError: if a value is out of range, or two options exclude each other.

    Example:
        >>> augment = Augment(shift=2)
        >>> index = torch.arange(3)
        >>> augment.apply(torch.ones(3, 1, 8, 8), seed=0, view=torch.ones_like(index), index=index).shape
        torch.Size([3, 1, 8, 8])

    Reference:
        Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al. (2019), "CutMix",
        arXiv:1905.04899; Cubuk et al. (2020), "RandAugment", arXiv:1909.13719.
    """

    shift: int = 0
    pad_crop: int = 0
    flip: float = 0.0
    noise: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    randaugment: RandAugment = field(default_factory=RandAugment)
    other_view: bool = False

    def __post_init__(self) -> None:
        checks.at_least("augment.shift", self.shift, 0)
        checks.at_least("augment.pad_crop", self.pad_crop, 0)
        checks.unit_interval("augment.flip", self.flip)
        checks.non_negative("augment.noise", self.noise)
        if self.noise > _MOST_NOISE:
            raise InputError(
                f"augment.noise: found {self.noise!r}, expected at most {_MOST_NOISE:g}, the limit of float32"
            )
        for key in _COLOURS:
            checks.non_negative(f"augment.{key}", getattr(self, key))
            if getattr(self, key) > _MOST_COLOUR:
                raise InputError(f"augment.{key}: found {getattr(self, key)!r}, expected at most {_MOST_COLOUR}")
        for key in ("mixup", "cutmix"):
            checks.non_negative(f"augment.{key}", getattr(self, key))
        checks.unit_interval("augment.switch", self.switch)
        if self.switch != Augment.switch and not (self.mixup and self.cutmix):
            raise InputError("augment.switch: chooses between mixup and cutmix; give both, or leave it out")
        if self.other_view and self.mixes:
            raise InputError("augment.other_view: mixed samples have no other view; leave out other_view or the mixing")
        if self.shift and self.pad_crop:
            raise InputError("augment: found shift and pad_crop, which move images in the same way; give one of them")

    @property
    def active(self) -> bool:
        """Whether any view differs from the sample."""
        return bool(self.moves or self.noise or self._colours or self.mixes)

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @property
    def _colours(self) -> list[str]:
        return [key for key in _COLOURS if getattr(self, key)]

    @property
    def moves(self) -> bool:
        """Whether any view has pixels in other places than the sample."""
        return bool(self.shift or self.pad_crop or self.flip or self.randaugment.n)

    def identity(self, seed: int) -> str:
        """Return a digest of the augmentation and its seed, which with view and index decide a random view.

        >>> Augment(noise=0.1).identity(0) == Augment(noise=0.1).identity(0) != Augment(noise=0.1).identity(1)
        True
        """
        return _identity(self, seed)

    def apply(self, inputs: Tensor, *, seed: int, view: Tensor, index: Tensor) -> Tensor:
        """Return the given view of each sample, not yet mixed with another's; the inputs stay as they are.

        inputs: (N, C, H, W) float, or (N, ...) float when only noise is added.  view, index: (N,) int64.
        Raises DataError when the inputs cannot be augmented so.
        """
        self._check(inputs)
        if self.flip:
            flipped = uniform(seed, "augment.flip", view, index) < self.flip
            inputs = torch.where(flipped[:, :, None, None], inputs.flip(-1), inputs)
        if reach := self.shift + self.pad_crop:
            places = 2 * reach + 1
            corner = (uniform(seed, "augment.shift", view, index, 2) * places).to(torch.int64)
            inputs = _crop(inputs, corner, reach)
        if self.randaugment.n:
            inputs = self.randaugment.apply(inputs, seed=seed, view=view, index=index)
        for key in self._colours:
            reach = getattr(self, key)
            low = max(0.0, 1.0 - reach)
            factor = low + uniform(seed, f"augment.{key}", view, index) * (1.0 + reach - low)
            inputs = _COLOURS[key](inputs, factor[:, :, None, None].to(inputs.dtype))
        if self.noise:
            drawn = normal(seed, "augment.noise", view, index, inputs[0].numel())
            inputs = torch.add(inputs, drawn.view_as(inputs), alpha=self.noise)
        return inputs

    def mix(self, own: Tensor, other: Tensor, *, seed: int, view: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mix views of samples (N, ...) with views of their partners; return them and (N,) how much is their own.

        view, index: (N,) int64, of the samples themselves.  `limbeck.data.mixing` has the formulas and the partners.
        """
        cut = torch.full_like(index, bool(self.cutmix), dtype=torch.bool)
        if self.mixup and self.cutmix:
            cut = uniform(seed, "mix.switch", view, index)[:, 0] < self.switch
        drawn = uniform(seed, "mix.share", view, index, 2)
        inputs, shares = own, torch.ones(len(index), device=index.device)
        if self.mixup:
            shares = torch.where(cut, shares, mixing.beta(self.mixup, drawn))
            inputs = mixing.blend(inputs, other, shares)
        if self.cutmix:
            share = torch.where(cut, mixing.beta(self.cutmix, drawn), 1.0)
            centre = uniform(seed, "mix.box", view, index, 2)
            inputs, left = mixing.paste(inputs, other, mixing.boxes(share, centre, *inputs.shape[2:]))
            shares = torch.where(cut, left, shares)
        return inputs, shares

    def _check(self, inputs: Tensor) -> None:
        shape = tuple(inputs.shape)
        if self.active and not inputs.is_floating_point():
            raise DataError(f"augment: inputs of type {inputs.dtype} cannot be augmented, expected floating point")
        reach = self.shift + self.pad_crop
        if (self.moves or self._colours or self.cutmix) and len(shape) != 4:
            raise DataError(
                f"augment: found inputs of shape {shape}, expected images (N, C, H, W) for moves, flips, colours,"
                " cutmix"
            )
        if reach and reach >= min(shape[2:]):
            raise DataError(
                f"augment: a shift of {reach} pixels can empty images of shape {shape[1:]}; use a smaller one"
            )
        if self.saturation and shape[1] != 3:
            raise DataError(f"augment.saturation: images of shape {shape[1:]} do not have three channels; leave it out")
        if pixels := (["randaugment"] if self.randaugment.n else []) + self._colours:
            low, high = inputs.aminmax()
            if not (low >= 0 and high <= 1):
                raise DataError(
                    f"augment.{pixels[0]}: pixels lie in [{float(low):.4g}, {float(high):.4g}], expected [0, 1];"
                    " normalise in the set instead, or leave out the colours"
                )


@lru_cache(maxsize=64)
def _identity(augment: Augment, seed: int) -> str:
    return content_digest(["augmentation", augment, seed], "augment", "use limbeck.data.Augment")


def _crop(inputs: Tensor, corner: Tensor, reach: int) -> Tensor:
    """Crop each image, padded by `reach` zeros, at its corner (N, 2).

    Every crop is a view of the padded batch that starts at its own offset, so that one index_select over the
    overlapping views copies them all.
    """
    count, channels, height, width = inputs.shape
    padded = functional.pad(inputs, (reach, reach, reach, reach)).contiguous()
    row, plane = width + 2 * reach, (height + 2 * reach) * (width + 2 * reach)
    start = torch.arange(count, device=inputs.device) * (channels * plane) + corner[:, 0] * row + corner[:, 1]
    starts = (count - 1) * channels * plane + 2 * reach * row + 2 * reach + 1
    crops = padded.as_strided((starts, channels, height, width), (1, plane, row, 1))
    return crops.index_select(0, start)
