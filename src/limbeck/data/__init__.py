"""Sample sets, batches, augmentation, transfer sets and where they come from."""

from collections.abc import Callable

from limbeck.data.arrow import ParquetSet, parquet, saved_dataset
from limbeck.data.augment import Augment
from limbeck.data.chat import chat
from limbeck.data.chat_set import ChatSet
from limbeck.data.cifar import cifar10, cifar100
from limbeck.data.columns import Column, Columns
from limbeck.data.description import Description
from limbeck.data.digits import digits
from limbeck.data.factory import from_factory
from limbeck.data.glue import glue
from limbeck.data.grammar import synthetic_sentences, synthetic_text
from limbeck.data.halves import HalfSet, half_and_half, with_dustbin
from limbeck.data.idx import fashion_mnist, idx, mnist, read_idx
from limbeck.data.images import image_folder
from limbeck.data.interactions import interactions, synthetic_interactions
from limbeck.data.lazy import LazySet
from limbeck.data.loader import Loader
from limbeck.data.mapped import MappedSet, mapped
from limbeck.data.npz import npz
from limbeck.data.pair_set import PairSet
from limbeck.data.randaugment import RandAugment
from limbeck.data.restore import Restore
from limbeck.data.selection import HeldOut, Selection
from limbeck.data.sentences import sentences
from limbeck.data.seq2seq import seq2seq
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.data.shards import shards
from limbeck.data.stream_set import TokenStream
from limbeck.data.synthesis import Marginals, Munge, Synthesis, UniformValues
from limbeck.data.synthetic import synthetic
from limbeck.data.table_split import RowSplit
from limbeck.data.tables import bundled, table
from limbeck.data.text import TextSet
from limbeck.data.token_rows import next_tokens
from limbeck.data.token_stream import ptb, token_stream
from limbeck.data.transfer import Subset, Transfer
from limbeck.data.word_replacement import WordReplacement

__all__ = [
    "Augment",
    "ChatSet",
    "Column",
    "Columns",
    "Description",
    "HalfSet",
    "HeldOut",
    "LazySet",
    "Loader",
    "MappedSet",
    "Marginals",
    "Munge",
    "PairSet",
    "ParquetSet",
    "RandAugment",
    "Restore",
    "RowSplit",
    "SampleSet",
    "Selection",
    "Splits",
    "Subset",
    "Synthesis",
    "TensorSet",
    "TextSet",
    "TokenStream",
    "Transfer",
    "UniformValues",
    "WordReplacement",
    "bundled",
    "chat",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "from_factory",
    "glue",
    "half_and_half",
    "idx",
    "image_folder",
    "interactions",
    "kinds",
    "mapped",
    "mnist",
    "next_tokens",
    "npz",
    "parquet",
    "ptb",
    "read_idx",
    "saved_dataset",
    "sentences",
    "seq2seq",
    "shards",
    "synthetic",
    "synthetic_interactions",
    "synthetic_sentences",
    "synthetic_text",
    "table",
    "token_stream",
    "with_dustbin",
]


def kinds() -> dict[str, Callable[..., Splits]]:
    """Return every source of data by the name that recipes use.

    Returns:
        {name: function that returns `Splits`}.

    Example:
        >>> kinds()["digits"]().name
        'digits'
    """
    return {
        "bundled": bundled,
        "chat": chat,
        "cifar10": cifar10,
        "cifar100": cifar100,
        "digits": digits,
        "factory": from_factory,
        "fashion_mnist": fashion_mnist,
        "glue": glue,
        "idx": idx,
        "images": image_folder,
        "interactions": interactions,
        "mapped": mapped,
        "mnist": mnist,
        "npz": npz,
        "parquet": parquet,
        "ptb": ptb,
        "saved_dataset": saved_dataset,
        "sentences": sentences,
        "seq2seq": seq2seq,
        "shards": shards,
        "synthetic": synthetic,
        "synthetic_interactions": synthetic_interactions,
        "synthetic_sentences": synthetic_sentences,
        "synthetic_text": synthetic_text,
        "table": table,
        "token_stream": token_stream,
    }
