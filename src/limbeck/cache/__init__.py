"""Stores: a teacher's answers on disk, dense, cut to the largest classes, or drawn; built once and read by many."""

from limbeck.cache.asking import Asked, ask_server
from limbeck.cache.build import build_store
from limbeck.cache.encodings import (
    ENCODINGS,
    AnyEncoding,
    DenseEncoding,
    QuantizedEncoding,
    SampledEncoding,
    TopKEncoding,
    encoding_of,
    keys_of,
)
from limbeck.cache.imports import import_answers
from limbeck.cache.plan import Order
from limbeck.cache.reader import CachedTeacher, Store
from limbeck.cache.server import Server

__all__ = [
    "ENCODINGS",
    "AnyEncoding",
    "Asked",
    "CachedTeacher",
    "DenseEncoding",
    "Order",
    "QuantizedEncoding",
    "SampledEncoding",
    "Server",
    "Store",
    "TopKEncoding",
    "ask_server",
    "build_store",
    "encoding_of",
    "import_answers",
    "keys_of",
]
