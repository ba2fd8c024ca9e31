"""Tables at sizes that say nothing: random pictures in place of the published sets, narrow networks, one epoch."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck import data
from limbeck.data import Splits, TensorSet
from limbeck.papers import Table, read_table
from small_table import TABLE

_GROUPS = tuple(number // 2 for number in range(10))


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def read(tmp_path):
    """A function that reads a table from its text, changed by replacements."""

    def made(text: str = TABLE, *changes: tuple[str, str], name: str = "fake2015_digits") -> Table:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        folder = Path(tmp_path / "tables" / name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
        return read_table(folder)

    return made


def drawn(count: int, seed: int, channels: int = 1) -> TensorSet:
    """Pictures whose class is where the bright stripe is."""
    labels = torch.arange(count) % 10
    pictures = torch.rand((count, channels, 28, 28), generator=torch.Generator().manual_seed(seed))
    pictures[torch.arange(count)[:, None], 0, 2 * labels[:, None] + torch.arange(2)] += 0.5
    return TensorSet.of(pictures, labels, class_names=[f"class {number}" for number in range(10)])


@pytest.fixture
def stripes(monkeypatch):
    """The published sets, replaced by pictures with stripes."""

    def mnist(folder: str | None = None):
        return Splits(drawn(600, 0), drawn(100, 10), "stripes")

    def fashion_mnist(folder: str | None = None):
        return Splits(drawn(600, 1), drawn(100, 11), "stripes")

    def cifar100(folder: str | None = None):
        parts = (
            replace(drawn(count, 2, channels=3), groups=_GROUPS, group_names=tuple("abcde")) for count in (600, 100)
        )
        return Splits(*parts, "stripes")

    kinds = data.kinds() | {each.__name__: each for each in (mnist, fashion_mnist, cifar100)}
    monkeypatch.setattr(data, "kinds", lambda: kinds)
