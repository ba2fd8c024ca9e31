"""Stores: a teacher's answers on disk, dense, cut to the largest classes, or drawn; built once and read by many."""

from limbeck.cache.build import build_store
from limbeck.cache.encodings import (
    ENCODINGS,
    AnyEncoding,
    DenseEncoding,
    SampledEncoding,
    TopKEncoding,
    encoding_of,
    keys_of,
)
from limbeck.cache.imports import import_answers
from limbeck.cache.plan import Order
from limbeck.cache.reader import CachedTeacher, Store

__all__ = [
    "ENCODINGS",
    "AnyEncoding",
    "CachedTeacher",
    "DenseEncoding",
    "Order",
    "SampledEncoding",
    "Store",
    "TopKEncoding",
    "build_store",
    "encoding_of",
    "import_answers",
    "keys_of",
]
