"""Whatever the files of a store hold, its answers are the right ones, or a line names the file that is wrong."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict

import pytest
import torch

from fuzzing import TEXTS, answered, cases, junk, mutated, noisy
from limbeck.cache import CachedTeacher, DenseEncoding, QuantizedEncoding, SampledEncoding, TopKEncoding
from limbeck.cache.format import _FOOTER, read_header
from limbeck.data import Loader
from limbeck.records import sealed
from limbeck.sparse import SampledAnswer
from small_stores import MOVED, built, language_model, order_of, samples_of, stream_of

SAMPLES, STREAM = samples_of(40), stream_of(61)
ORDERS = {
    "dense": (order_of(SAMPLES, DenseEncoding(), shard_samples=16), None),
    "rounded": (order_of(SAMPLES, QuantizedEncoding(bits=3), shard_samples=16), None),
    "top": (order_of(SAMPLES, TopKEncoding(k=3, temperatures=(1.0, 4.0)), shard_samples=16), None),
    "draws": (order_of(SAMPLES, SampledEncoding(draws=4), shard_samples=16, seed=0), None),
    "stream": (order_of(STREAM, TopKEncoding(k=2), augment=None, shard_samples=6), language_model(STREAM).model),
}


def batches(name):
    order, _ = ORDERS[name]
    if name == "stream":
        return list(Loader(STREAM, 3, seed=0).epoch(0))
    loader = Loader(SAMPLES, 20, seed=order.seed, augment=MOVED)
    return [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]


def bits(answer):
    """Return all tensors of an answer."""
    sparse = answer.sparse
    if sparse is None:
        return [answer.logits]
    if isinstance(sparse, SampledAnswer):
        return [sparse.ids, sparse.entropy]
    return [sparse.ids, sparse.logits, *sparse.rest.values()]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The stores, what is in their files, batches, and the answers to these."""
    found = {}
    for name, (order, net) in ORDERS.items():
        folder = tmp_path_factory.mktemp(name) / "s"
        teacher = built(folder, order, net)
        asked = batches(name)
        contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        found[name] = folder, contents, asked, [bits(teacher(batch)) for batch in asked]
    return found


def spoil(draw, folder, contents, others):
    """Change something about the files of a store; return whether a stranger could have signed it anew."""
    name = draw.choice(sorted(contents))
    path, kind = folder / name, draw.randrange(9)
    if kind == 0:
        path.write_bytes(noisy(draw, contents[name]))
    elif kind == 1:
        path.write_bytes(
            draw.choice([b"", b"\0" * len(contents[name]), contents[name][: draw.randrange(len(contents[name]))]])
        )
    elif kind == 2:  # a file in another's place
        path.write_bytes(contents[draw.choice(sorted(contents))])
    elif kind == 3:  # of another store
        other = draw.choice(sorted(others))
        path.write_bytes(others[other].get(name, draw.choice(sorted(others[other].values()))))
    elif kind == 4:
        path.unlink()
        if draw.random() < 0.8:
            links = [lambda to=to: path.symlink_to(to) for to in (path, folder, folder / "index.bin", folder / "none")]
            draw.choice([path.mkdir, lambda: os.mkfifo(path), *links])()
    elif kind == 5:
        header = mutated(draw, json.loads(contents["header.json"]))
        (folder / "header.json").write_text(json.dumps(header, default=str))
    else:  # a header that is signed anew, and perhaps shards and arrays that go with it
        header = json.loads(contents["header.json"])
        header.pop("sha256")
        if draw.random() < 0.5:
            header = mutated(draw, header)
        else:
            key = draw.choice(sorted(header))
            wild = [
                -1,
                0,
                1,
                2**31,
                2**62,
                10**30,
                1.5,
                float("nan"),
                "../../x",
                None,
                True,
                [],
                {},
                draw.choice(TEXTS),
            ]
            if isinstance(header[key], dict) and header[key] and draw.random() < 0.8:
                header[key][draw.choice(sorted(header[key]))] = draw.choice([*wild, junk(draw)])
            else:
                header[key] = draw.choice(wild)
        arrays = {}
        if kind > 6 and draw.random() < 0.5:
            name = draw.choice([each for each in contents if each.endswith(".bin") and not each.startswith("shard")])
            arrays[name.removesuffix(".bin")] = bytes(noisy(draw, contents[name]))
        return _sign(folder, contents, header, arrays, shards=kind > 6)
    return False


def _sign(folder, contents, header, arrays, *, shards):
    for name, content in arrays.items():
        (folder / f"{name}.bin").write_bytes(content)
        if isinstance(header.get("arrays"), dict) and isinstance(header["arrays"].get(name), dict):
            header["arrays"][name]["sha256"] = hashlib.sha256(content).hexdigest()
            header["arrays"][name]["shape"] = [len(content) // 8]
    try:
        header = sealed(header)
    except (TypeError, ValueError, AttributeError):  # what no JSON holds
        return False
    (folder / "header.json").write_text(json.dumps(header))
    try:
        digest = read_header(folder).digest
    except Exception:  # noqa: BLE001 - which the reader is then to refuse
        return shards
    for name, content in contents.items() if shards else ():
        if name.startswith("shard"):
            magic, _, *place, _ = _FOOTER.unpack(content[-_FOOTER.size :])
            body = content[: -_FOOTER.size]
            foot = _FOOTER.pack(magic, digest, *place, b"")[:-32]
            (folder / name).write_bytes(body + foot + hashlib.sha256(body + foot).digest())
    return shards


def restore(folder, contents):
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif (
            path.name not in contents
            or path.is_symlink()
            or not path.is_file()
            or path.read_bytes() != contents[path.name]
        ):
            path.unlink()
    for name, content in contents.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", cases(1500, 100_000))
def test_a_hostile_store_is_refused_by_name_or_answers_as_it_did(stores, seeds):
    refused = 0
    contents_of = {name: contents for name, (_, contents, _, _) in stores.items()}
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice(sorted(stores))
        folder, contents, asked, right = stores[name]
        signed = spoil(draw, folder, contents, {k: v for k, v in contents_of.items() if k != name})

        def read(folder=folder, asked=asked, views=ORDERS[name][0].views):
            teacher = CachedTeacher(folder, views=views)
            return [bits(teacher(batch)) for batch in asked]

        found = answered(read)
        if isinstance(found, str):
            refused += 1
            assert str(folder) in found, (seed, found)
        elif not signed:
            for one, other in zip(found, right, strict=True):
                assert all(map(torch.equal, one, other)), seed
        restore(folder, contents)
    assert refused > len(seeds) / 2


def test_a_header_names_all_that_decides_its_rows(stores):
    folder, *_ = stores["top"]
    header = asdict(read_header(folder))
    assert set(header["key"]) == {"teacher", "source", "input", "augmentation", "clean", "lanes"}
