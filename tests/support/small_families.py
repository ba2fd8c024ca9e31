"""A small network of every family, and inputs of any number of samples and any length for it."""

import inspect
import tempfile
from functools import cache

import torch

from limbeck import models

CLASSES, WORDS, LENGTH = 5, 30, 9
TEXTS = {"lstm_lm", "seq2seq_lstm", "transformer", "config", "pretrained"}
OWN_WORDS = {"lstm_lm", "seq2seq_lstm"}
SMALL = {
    "cnn": {"channels": [4, 4]},
    "mlp": {"hidden": [16]},
    "mixture": {"expert": {"kind": "mlp", "hidden": [8]}, "experts": 2},
    "lstm_lm": {"embedding": 6, "hidden": 8},
    "resnet": {"depth": 8, "widths": [4, 4, 8, 8]},
    "resnet_imagenet": {"depth": 18, "width": 4},
    "wrn": {"depth": 10, "width": 1},
    "vgg": {"depth": 8},
    "vit": {"depth": 1, "width": 16, "heads": 2},
    "transformer": {"layers": 1, "width": 16, "heads": 2, "positions": 16},
    "config": {
        "config": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
        },
    },
}


def family(name, shape=(3, 16, 16), **keys):
    """A network with weights that depend on the name alone."""
    torch.manual_seed(1)
    if name == "two_tower":
        return models.two_tower((1,), CLASSES, vocabulary=16, width=4)
    if name not in TEXTS:
        return models.builder(name)(shape, CLASSES, **{**SMALL.get(name, {}), **keys})
    words = CLASSES if name in OWN_WORDS else WORDS
    given = {"vocabulary": words, "max_length": LENGTH, **SMALL.get(name, {}), **keys}
    if name == "pretrained":
        given["folder"] = _folder()
    taken = inspect.signature(models.builder(name)).parameters
    return models.builder(name)((LENGTH,), CLASSES, **{key: each for key, each in given.items() if key in taken})


@cache
def _folder():
    place = tempfile.mkdtemp()
    with torch.random.fork_rng([]):
        family("config", head="none").save_pretrained(place)
    return place


def inputs_of(name, count, length=LENGTH, shape=(3, 16, 16)):
    """Inputs of a family; of texts rows of many lengths, padded to `length`."""
    generator = torch.Generator().manual_seed(2)
    if name == "two_tower":
        return torch.arange(count)[:, None]
    if name not in TEXTS:
        return torch.randn(count, *shape, generator=generator)
    ids = torch.randint(CLASSES if name in OWN_WORDS else WORDS, (count, length), generator=generator)
    lengths = length - torch.arange(count) % length
    given = {"input_ids": ids, "attention_mask": torch.arange(length) < lengths[:, None]}
    return {**given, "decoder_input_ids": ids} if name == "seq2seq_lstm" else given
