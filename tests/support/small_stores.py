"""Small sets, networks and stores for the tests of stored answers."""

import hashlib

import torch
from torch import nn

import limbeck as lb
from limbeck.cache import DenseEncoding, Order, QuantizedEncoding, SampledEncoding, TopKEncoding, build_store
from limbeck.data import Augment, TokenStream
from limbeck.randomness import derive_seed
from limbeck.tokenizers import Words
from small_text import SmallLanguageModel

CLASSES, SIZE = 20, 70
MOVED = Augment(noise=0.1, flip=0.5)
SPARSE = (TopKEncoding(k=4, temperatures=(1.0, 4.0)), TopKEncoding(k=4, dtype="fp32"), SampledEncoding(draws=5))
ENCODINGS = (DenseEncoding(), DenseEncoding("fp16"), DenseEncoding("bf16"), QuantizedEncoding(bits=8), *SPARSE)


def samples_of(size=SIZE, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (size,), generator=draw)
    return lb.data.TensorSet.of(torch.randn(size, 2, 3, 3, generator=draw), labels, classes=CLASSES)


def network(seed=0, scale=3.0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(18, CLASSES))
        nn.init.normal_(net[1].weight, std=scale / 4)
    return net


def stream_of(tokens=103, lanes=3, length=4, words=7, **keys):
    tokenizer = Words().fit([" ".join(f"w{number}" for number in range(words))])
    ids = torch.randint(len(tokenizer), (tokens,), generator=torch.Generator().manual_seed(1))
    return TokenStream.of(ids, tokenizer=tokenizer, lanes=lanes, length=length, **keys)


def language_model(stream):
    return lb.ModelTeacher(SmallLanguageModel(stream.classes).float())


def order_of(samples=None, encoding=None, *, augment=MOVED, views=(1, 2), seed=0, shard_samples=16, **keys):
    views = (0,) if augment is None else views
    return Order(
        samples_of() if samples is None else samples,
        encoding or DenseEncoding(),
        augment=augment,
        views=views,
        seed=derive_seed(seed, "data"),
        shard_samples=shard_samples,
        **keys,
    )


def built(folder, order=None, net=None):
    return build_store(lb.ModelTeacher(net or network()), folder, order or order_of())


def digests(folder):
    """Return the SHA-256 of each file of a store by its name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()
    }
