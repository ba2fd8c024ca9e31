"""Builders that are killed at any moment: never a damaged store, never one that is silently short."""

import os
import random
import signal
import stat
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from faults import Changes, kill
from limbeck.cache import CachedTeacher, TopKEncoding
from limbeck.errors import CheckpointError
from small_stores import SPARSE, built, digests, language_model, order_of, samples_of, stream_of

# Python 3.12 warns of any fork in a process with threads; these children only build and end.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ORDER = order_of(samples_of(40), SPARSE[0], shard_samples=8)
STREAM = stream_of(61)
RECURRENT = order_of(STREAM, TopKEncoding(k=2), augment=None, shard_samples=3)
CASES = {"views": (ORDER, None), "stream": (RECURRENT, language_model(STREAM).model)}


def forked(folder, order, net, prepare=lambda: None):
    """Build in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        prepare()
        built(folder, order, net)
        code = 0
    finally:
        os._exit(code)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def torn(number):
    """Cut what the process has written in half at its number-th file, before the disk has it, and die."""
    real, seen = os.fsync, [0]

    def fsync(file):
        found = os.fstat(file)
        seen[0] += stat.S_ISREG(found.st_mode)
        if seen[0] == number:
            os.ftruncate(file, found.st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(file)

    os.fsync = fsync


def named(folder):
    """Return the digests of what bears its name."""
    return {name: digest for name, digest in digests_of(folder).items() if not name.startswith(".")}


def sound(folder, whole, order):
    """Require that all that bears its name is whole, and that a reader says so if anything is missing."""
    there = named(folder)
    assert there.items() <= whole.items()
    try:
        CachedTeacher(folder, views=order.views)
    except CheckpointError as error:
        refused = str(folder) in str(error)
        assert refused
        assert there != whole
    else:
        assert there == whole


def digests_of(folder):
    return digests(folder) if folder.is_dir() else {}


def kills(few, many):
    draw = random.Random(0)
    seeds = [draw.randrange(10**9) for _ in range(few + many)]
    return [pytest.param(seed, marks=[] if at < few else pytest.mark.slow) for at, seed in enumerate(seeds)]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    order, net = CASES[request.param]
    folder = tmp_path_factory.mktemp("whole") / "s"
    began = time.monotonic()
    built(folder, order, net)
    return order, net, digests(folder), time.monotonic() - began


@pytest.mark.miniature(1)
@pytest.mark.parametrize("seed", kills(4, 46))
def test_a_killed_build_is_resumed_to_the_same_bytes(tmp_path, case, seed):
    """Ten kills for each seed and case: 80 in the default suite, 1,000 with the slow ones."""
    order, net, whole, seconds = case
    draw, folder, survived = random.Random(seed), tmp_path / "s", 0
    for _ in range(10):
        kind = draw.randrange(3)
        if kind == 0:
            changes = Changes(tmp_path, draw.randint(1, 12), kill, once=True)
            code = ended(forked(folder, order, net, changes.watch))
        elif kind == 1:
            code = ended(forked(folder, order, net, partial(torn, draw.randint(1, 6))))
        else:
            child = forked(folder, order, net)
            time.sleep(draw.random() * seconds * 1.5)
            os.kill(child, signal.SIGKILL)
            code = ended(child)
        assert code in (0, -signal.SIGKILL)
        survived += code == 0
        sound(folder, whole, order)
        if survived or draw.random() < 0.1:  # begin with less than there is
            for path in list(folder.glob("shard-*")) if folder.is_dir() else []:
                if draw.random() < 0.5:
                    path.unlink()
            survived = 0
    built(folder, order, net)
    assert named(folder) == whole


@pytest.mark.miniature(1)
@pytest.mark.parametrize("seed", kills(2, 20))
def test_several_builders_share_a_store_and_some_are_killed(tmp_path, case, seed):
    order, net, whole, seconds = case
    draw, folder = random.Random(seed), tmp_path / "s"
    children = [forked(folder, order, net) for _ in range(3)]
    time.sleep(draw.random() * seconds)
    os.kill(children[0], signal.SIGKILL)
    assert [ended(child) for child in children[1:]] == [0, 0]
    ended(children[0])
    assert named(folder) == whole


@pytest.mark.thorough
def test_a_builder_leaves_to_another_what_it_is_at_and_waits_for_it(tmp_path):
    """A claim that is held by a process that lives is waited for; one of a process that is gone is not."""
    from limbeck.cache.build import _claimed

    folder = tmp_path / "s"
    built(folder, replace(ORDER, views=(1,)))
    whole = digests(folder)
    (folder / "shard-00001-00002.bin").unlink()
    (folder / ".claims").mkdir()
    read, write = os.pipe()
    holder = os.fork()
    if not holder:
        with _claimed(folder / ".claims" / "1-2"):
            os.write(write, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    child = forked(folder, replace(ORDER, views=(1,)), None)
    time.sleep(1.0)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(holder, signal.SIGKILL)
    ended(holder)
    assert ended(child) == 0
    assert named(folder) == whole


def test_the_draws_of_a_torn_build_are_not_another_draw(tmp_path):
    order = order_of(samples_of(40), SPARSE[2], shard_samples=8)
    whole = digests_of(built(tmp_path / "whole", order).store.folder)
    torch.manual_seed(99)
    assert ended(forked(tmp_path / "s", order, None, lambda: torn(4))) == -signal.SIGKILL
    built(tmp_path / "s", order)
    assert named(tmp_path / "s") == whole
