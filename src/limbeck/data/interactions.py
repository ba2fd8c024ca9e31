"""Interactions: which user took which items, in which order; the newest of each user are held out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.cells import is_blank, is_number
from limbeck.data.content import check_fits
from limbeck.data.npz import read_arrays
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.data.table_files import read_rows
from limbeck.errors import DataError, InputError, one_of
from limbeck.randomness import derive_seed, uniform
from limbeck.tasks import RANKING, UNLABELLED

__all__ = ["hold_out", "interactions", "synthetic_interactions"]

_ENDINGS = (".csv", ".tsv", ".npz")


@checked
def interactions(
    path: str,
    user: str = "user",
    item: str = "item",
    order: str | None = None,
    columns: tuple[str, ...] = (),
    delimiter: str | None = None,
    at_least: int = 1,
    test: float | int = 1,
) -> Splits:
    """Return the users of a file of interactions, one line each, with the items that each of them took in order.

    The task is `ranking`: a sample is a user, its input the number of the user, and its labels are the items to be
    found, and those that are known already and left out of the ranking.  In the training set all of a user's items but
    the newest are to be found; in the test set the newest ones, and the others are known.  Validation holds out the
    newest of what is left, by the same rule (see `HeldOut`).

    Args:
        path: a .csv, .tsv or .npz file, the first two also packed (.gz), or a folder of them, which are read one behind
            the other in the order of their names.  An archive has one array (n,) for each column.
        user: the column of the user.
        item: the column of the item.  An item that a user took before is left out.
        order: the column of numbers that sorts a user's interactions, the oldest first; None for the order of lines.
        columns: the names of all columns, for files whose first line has none.
        delimiter: between cells; by default a tab in a .tsv file and a comma in others.
        at_least: leave out users and items with fewer interactions, until all that are left have so many.
        test: how many of a user's newest interactions are for testing: a number, or a share in (0, 1).  One at least
            stays for training.

    Returns:
        Training and test set of the same users: inputs (n, 1) int64, labels (n, 2, items).

    Raises:
        DataError: if a file is missing or damaged, or a cell is empty; the message names file, line and column.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["interactions"] is data.interactions
        True
    """
    checks.at_least("at_least", at_least, 1)
    place = Path(path).expanduser()
    notes: list[str] = []
    parts = [_read(str(file), (user, item, order), columns, delimiter, notes) for file in _files(place)]
    users, items, orders = (np.concatenate(each) for each in zip(*parts, strict=True))
    by_user = np.lexsort((orders, users))
    users, items = users[by_user], items[by_user]
    pairs = np.stack([np.unique(each, return_inverse=True)[1] for each in (users, items)], 1)
    kept = np.sort(np.unique(pairs, axis=0, return_index=True)[1])  # of equal ones the first
    if len(kept) < len(pairs):
        notes.append(f"{len(pairs) - len(kept):,} interactions repeat an item that the user took before; left out")
    kept = kept[_core(pairs[kept], at_least)]
    if not len(kept):
        raise DataError(f"{place}: found no users and items with {at_least} interactions or more; lower at_least")
    (user_names, user_numbers), (item_names, item_numbers) = (_numbered(each[kept]) for each in (users, items))
    if len(item_names) < 2:
        raise DataError(f"{place}: found {len(item_names)} item; expected 2 or more")
    taken = np.stack([user_numbers, item_numbers], 1)
    splits = _splits(str(place), taken[np.argsort(user_numbers, kind="stable")], user_names, item_names, test)
    return splits.noting((f"{place}: {note}" for note in notes), warn=False)


@checked
def synthetic_interactions(
    users: int = 400,
    items: int = 300,
    each: int = 20,
    rank: int = 16,
    sharpness: float = 2.0,
    test: float | int = 1,
    seed: int = 0,
) -> Splits:
    """Return users that take items with the odds e^{s·p_u·q_i/√rank}, the numbers in p and q drawn from N(0, 1).

    Args:
        users: how many.
        items: how many.
        each: the items that a user takes one after the other, each once.
        rank: the numbers in p and q.
        sharpness: s, finite, not negative; 0 makes all items alike.
        test: how many of a user's newest interactions are for testing: a number, or a share in (0, 1).
        seed: of all that is drawn.

    Returns:
        Training and test set, as of `interactions`.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> data = synthetic_interactions(users=30, items=20, each=5)
        >>> data.train, data.test.labelled_count
        (TensorSet('synthetic interactions/train', 30 samples (1,), 20 classes), 30)
    """
    for name, value, least in (("users", users, 1), ("items", items, 2), ("each", each, 2), ("rank", rank, 1)):
        checks.at_least(name, value, least)
    checks.non_negative("sharpness", sharpness)
    if each > items:
        raise InputError(f"each: found {each}, expected at most {items}, the number of items")
    check_fits("users and items", 2 * 8 * users * items)
    generator = torch.Generator().manual_seed(derive_seed(seed, "interactions"))
    owner, item = (torch.randn(count, rank, generator=generator, dtype=torch.float64) for count in (users, items))
    odds = sharpness / rank**0.5 * owner @ item.T
    noise = torch.rand(users, items, generator=generator, dtype=torch.float64)
    taken = (odds - (-noise.log()).log()).topk(each, 1).indices  # drawn by the odds, none twice
    taken = taken.gather(1, torch.rand(users, each, generator=generator).argsort(1))  # the likely ones are not first
    pairs = torch.stack([torch.arange(users).repeat_interleave(each), taken.flatten()], 1).numpy()
    names = tuple(map(str, range(max(users, items))))
    return _splits("synthetic interactions", pairs, names[:users], names[:items], test)


def _splits(name: str, taken: Any, users: tuple[str, ...], items: tuple[str, ...], test: float) -> Splits:
    """Return the sets of users; taken: (n, 2) of user and item, sorted by user and then from the oldest on."""
    whole = TensorSet.of(
        torch.arange(len(users))[:, None],
        _padded(name, taken, len(users)),
        class_names=items,
        name=name,
        task=RANKING,
        vocabulary=users,
    )
    try:
        train, held = hold_out(whole, test, "last")
    except InputError as error:
        raise DataError(f"test: {error}") from None
    splits = Splits(replace(train, name=f"{name}/train"), replace(held, name=f"{name}/test"), name)
    without = len(users) - held.labelled_count
    note = f"{name}: {without:,} of {len(users):,} users have too few interactions to be tested"
    return splits.noting([note] if without else [], warn=False)


def hold_out(
    samples: SampleSet, size: float | int, place: Literal["random", "first", "last"]
) -> tuple[SampleSet, SampleSet]:
    """Hold out interactions of every user: return the users with the rest to be found, and with the held-out items.

    size: how many of each user's items, or which share of them; one at least stays with the rest.  place: the oldest,
    the newest, or any.  In the held-out part, the rest is known.  Raises InputError if nothing is held out.

    >>> labels = torch.tensor([[[4, 2, 7], [-100, -100, -100]], [[1, -100, -100], [-100, -100, -100]]])
    >>> users = TensorSet.of(torch.arange(2)[:, None], labels, classes=9, task=RANKING)
    >>> rest, held = hold_out(users, 1, "last")
    >>> rest.labels[:, 0].tolist(), held.labels[0].tolist()
    ([[4, 2], [1, -100]], [[7, -100], [4, 2]])
    """
    items, known = samples.labels.unbind(1)
    there = items != UNLABELLED
    counts = there.sum(1)
    wanted = torch.full_like(counts, size) if isinstance(size, int) else (size * counts.double()).round().long()
    number = torch.minimum(wanted, counts - 1).clamp_min(0)
    if not int(number.sum()):
        raise InputError(
            f"found {size!r}, which holds out no interaction of {len(samples):,} users; expected a number of each "
            "user's interactions, or a larger share"
        )
    turn = there.cumsum(1) - 1  # the place of each item among the user's
    if place == "random":
        drawn = uniform(0, "held out", torch.zeros_like(samples.index), samples.index, items.shape[1])
        turn = drawn.masked_fill(~there, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    elif place == "last":
        turn = counts[:, None] - 1 - turn
    held = there & (turn < number[:, None])
    rest = _together(items, there & ~held)
    before = torch.cat([known, rest], 1)
    return (
        replace(samples, labels=_stacked(rest, _together(known, known != UNLABELLED))),
        replace(samples, labels=_stacked(_together(items, held), _together(before, before != UNLABELLED))),
    )


def _together(items: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen items of each row in their order, (n, most), filled up behind."""
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)
    counts = chosen.sum(1, keepdim=True)
    most = max(1, int(counts.max()))
    there = torch.arange(most, device=items.device) < counts
    return torch.where(there, items.gather(1, order[:, :most]), UNLABELLED)


def _stacked(found: Tensor, known: Tensor) -> Tensor:
    """Return labels (n, 2, L) of items to be found and known ones."""
    width = max(found.shape[1], known.shape[1])
    padded = [torch.nn.functional.pad(each, (0, width - each.shape[1]), value=UNLABELLED) for each in (found, known)]
    return torch.stack(padded, 1)


def _files(place: Path) -> list[Path]:
    """Return the file, or those of a folder in the order of their names."""
    if not place.exists():
        raise DataError(f"{place}: found no such file or folder; expected a {', '.join(_ENDINGS)} file of interactions")
    if not place.is_dir():
        return [place]
    found = sorted(each for each in place.iterdir() if _ending(each) in _ENDINGS)
    if not found:
        raise DataError(f"{place}: found no {', '.join(_ENDINGS)} file in the folder; expected one of interactions")
    return found


def _ending(place: Path) -> str:
    return Path(place.name.removesuffix(".gz")).suffix.lower()


def _read(
    path: str,
    names: tuple[str, str, str | None],
    columns: Sequence[str],
    delimiter: str | None,
    notes: list[str],
) -> tuple[Any, Any, Any]:
    """Return users and items as text, and numbers by which interactions are sorted, (n,) each."""
    if _ending(Path(path)) == ".npz":
        found: dict[str, Any] = read_arrays(path)
        columns_of = {name: _texts(path, name, array) for name, array in found.items()}
    else:
        sign = delimiter or ("\t" if _ending(Path(path)) == ".tsv" else ",")
        doubts: list[str] = []
        header, rows = read_rows(path, sign, doubts, columns)
        notes.extend(doubts)
        columns_of = {name: np.array([row[place].strip() for row in rows]) for place, name in enumerate(header)}
    for key, name in zip(("user", "item", "order"), names, strict=True):
        if name is not None and name not in columns_of:
            unnamed = "its first line has no names, give them as columns, such as [user, item]"
            mend = unnamed if all(map(is_number, columns_of)) else one_of(name, columns_of)
            raise DataError(f"{key}: there is no column '{name}' in '{path}'; {mend}")
    user, item, order = names
    for name in (user, item):
        empty = [place for place, text in enumerate(columns_of[name].tolist()) if is_blank(text)]
        if empty:
            raise DataError(f"{path}: column '{name}' is empty in row {empty[0] + 1}; fill it in, or leave the row out")
    sizes = {name: len(columns_of[name]) for name in (user, item, *([order] if order else []))}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{path}: found arrays of different lengths ({sizes}); expected one value an interaction each")
    return columns_of[user], columns_of[item], _numbers(path, order, columns_of, sizes[user])


def _texts(path: str, name: str, array: Any) -> Any:
    """Return an array of an archive as text."""
    if array.ndim != 1 or array.dtype.kind not in "uifU":
        raise DataError(
            f"{path}: array '{name}' is {array.dtype} {array.shape}; expected numbers or text, one an interaction"
        )
    return array.astype(str)


def _numbers(path: str, name: str | None, columns: dict[str, Any], size: int) -> Any:
    if name is None:
        return np.zeros(size)
    texts = columns[name].tolist()
    wrong = [place for place, text in enumerate(texts) if not is_number(text)]
    if wrong:
        raise DataError(
            f"{path}: column '{name}', row {wrong[0] + 1}: found {checks.shown(texts[wrong[0]])}; expected a number "
            "that sorts the interactions, such as seconds since 1970"
        )
    return columns[name].astype(np.float64)


def _numbered(texts: Any) -> tuple[tuple[str, ...], Any]:
    """Return the different texts, in the order of numbers if all are whole numbers, and the place of each in them."""
    names, numbers = np.unique(texts, return_inverse=True)
    if all(name.isascii() and name.isdigit() for name in names.tolist()):
        order = np.argsort([int(name) for name in names.tolist()], kind="stable")
        names, numbers = names[order], np.argsort(order)[numbers]
    return tuple(names.tolist()), numbers


def _core(pairs: Any, at_least: int) -> Any:
    """Return which (n,) of the pairs (n, 2) are left, once all users and items have at least so many."""
    left = np.ones(len(pairs), dtype=bool)
    while True:
        counts = [np.bincount(column[left], minlength=int(column.max()) + 1)[column] for column in pairs.T]
        fewer = left & ((counts[0] < at_least) | (counts[1] < at_least))
        if not fewer.any():
            return left
        left &= ~fewer


def _padded(path: str, taken: Any, users: int) -> Tensor:
    """Return labels (users, 2, most) with all items to be found; taken: (n, 2) of user and item, sorted by user."""
    counts = np.bincount(taken[:, 0], minlength=users)
    check_fits(path, 2 * 8 * users * int(counts.max()))
    labels = torch.full((users, 2, int(counts.max())), UNLABELLED)
    place = np.arange(len(taken)) - np.repeat(counts.cumsum() - counts, counts)
    labels[torch.from_numpy(taken[:, 0]), 0, torch.from_numpy(place)] = torch.from_numpy(taken[:, 1])
    return labels
