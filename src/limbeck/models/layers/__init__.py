"""What several of the networks are made of."""

from limbeck.models.layers.adapters import merged
from limbeck.models.layers.convolution import activated, convolution, he_normal, normal, normalised, shuffled
from limbeck.models.layers.exits import DEEPEST, ExitOf, WithExits
from limbeck.models.layers.images import GlobalAverage, check_images
from limbeck.models.layers.library import read_configuration
from limbeck.models.layers.locked_dropout import LockedDropout, RowDropout
from limbeck.models.layers.mixture import MixtureOfExperts
from limbeck.models.layers.partial_input import InputPart, PartialInput
from limbeck.models.layers.rectified import Rectified
from limbeck.models.layers.stochastic_depth import StochasticDepth, check_survival, survivals
from limbeck.models.layers.tied_softmax import TiedSoftmax, TokenEmbedding
from limbeck.models.layers.tokens import MeanOfTokens, check_tokens
from limbeck.models.layers.transformed_input import InputTransform, TransformedInput
from limbeck.models.layers.unit_length import NormalisedLinear, UnitLength

__all__ = [
    "DEEPEST",
    "ExitOf",
    "GlobalAverage",
    "InputPart",
    "InputTransform",
    "LockedDropout",
    "MeanOfTokens",
    "MixtureOfExperts",
    "NormalisedLinear",
    "PartialInput",
    "Rectified",
    "RowDropout",
    "StochasticDepth",
    "TiedSoftmax",
    "TokenEmbedding",
    "TransformedInput",
    "UnitLength",
    "WithExits",
    "activated",
    "check_images",
    "check_survival",
    "check_tokens",
    "convolution",
    "he_normal",
    "merged",
    "normal",
    "normalised",
    "read_configuration",
    "shuffled",
    "survivals",
]
