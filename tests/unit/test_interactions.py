"""Data of kind interactions: files of every form, which items are held out, and one line for each fault."""

import gzip

import numpy as np
import pytest
import torch

from limbeck import data
from limbeck.data import HeldOut, TensorSet
from limbeck.errors import DataError, InputError
from limbeck.tasks import RANKING
from walk import over

ROWS = [  # user, item, time: not in order, and with an item that is taken twice
    ("ann", "9", 30), ("bob", "10", 5), ("ann", "10", 10), ("cat", "2", 1), ("ann", "2", 20), ("bob", "9", 2),
    ("ann", "10", 40), ("dan", "11", 3), ("bob", "11", 9),
]  # fmt: skip
TAKEN = {"ann": ["10", "2", "9"], "bob": ["9", "10", "11"], "cat": ["2"], "dan": ["11"]}


def written(rows, separator=",", header="user,item,time"):
    lines = [header.replace(",", separator)] if header else []
    return "\n".join([*lines, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def named(samples):
    """What each user is to be given, and what is known, by names."""
    found = {}
    for number, labels in zip(samples.gather(torch.arange(len(samples))).flatten(), samples.labels, strict=True):
        parts = [[samples.class_names[item] for item in row.tolist() if item >= 0] for row in labels]
        found[samples.vocabulary[int(number)]] = tuple(parts)
    return found


def check(splits):
    assert named(splits.train) == {
        "ann": (["10", "2"], []), "bob": (["9", "10"], []), "cat": (["2"], []), "dan": (["11"], []),
    }  # fmt: skip
    assert named(splits.test) == {
        "ann": (["9"], ["10", "2"]), "bob": (["11"], ["9", "10"]), "cat": ([], ["2"]), "dan": ([], ["11"]),
    }  # fmt: skip
    assert splits.train.class_names == ("2", "9", "10", "11")  # as numbers
    assert splits.train.task == RANKING
    assert splits.train.source == splits.test.source
    assert [note.partition(": ")[2] for note in splits.notes] == [
        "2 of 4 users have too few interactions to be tested",
        "1 interactions repeat an item that the user took before; left out",
    ]


def test_the_newest_item_of_each_user_is_tested_whatever_form_the_file_has(tmp_path):
    (tmp_path / "a.csv").write_text(written(ROWS))
    check(data.interactions(str(tmp_path / "a.csv"), order="time"))
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        file.write(written(ROWS, "\t", header=""))
    check(data.interactions(str(tmp_path / "a.tsv.gz"), columns=("user", "item", "t"), order="t"))
    (tmp_path / "a.txt").write_text(written(ROWS, ";", "u;i;t"))
    check(data.interactions(str(tmp_path / "a.txt"), user="u", item="i", order="t", delimiter=";"))
    users, items, times = (np.array(column) for column in zip(*ROWS, strict=True))
    np.savez(tmp_path / "a.npz", user=users, item=items.astype(int), time=times)
    check(data.interactions(str(tmp_path / "a.npz"), order="time"))


def test_the_files_of_a_folder_are_read_one_behind_the_other_and_lines_are_in_order(tmp_path):
    rows = sorted(ROWS, key=lambda row: row[2])
    (tmp_path / "2.csv").write_text(written(rows[4:]))
    (tmp_path / "1.csv").write_text(written(rows[:4]))
    (tmp_path / "README.md").write_text("nothing")
    check(data.interactions(str(tmp_path)))


def test_a_share_of_each_users_newest_items_can_be_tested(tmp_path):
    (tmp_path / "a.csv").write_text(written(ROWS))
    splits = data.interactions(str(tmp_path / "a.csv"), order="time", test=0.6)
    assert named(splits.test)["ann"] == (["2", "9"], ["10"])
    assert named(splits.test)["cat"] == ([], ["2"])  # one item at least stays


def test_users_and_items_with_few_interactions_are_left_out_until_none_has_so_few(tmp_path):
    rows = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 2), ("c", 3), ("d", 3), ("d", 4)]
    (tmp_path / "a.csv").write_text(written(rows, header="user,item"))
    splits = data.interactions(str(tmp_path / "a.csv"), at_least=2)
    assert splits.train.vocabulary == ("a", "b")  # item 4, then user d, then item 3, then user c
    assert splits.train.class_names == ("1", "2")


def users_of(seed=0, users=20, most=9):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((users, 2, most), -100)
    for row in labels:
        count = int(torch.randint(1, most + 1, (1,), generator=generator))
        row[0, :count] = torch.randperm(50, generator=generator)[:count]
    return TensorSet.of(torch.arange(users)[:, None], labels, classes=50, task=RANKING)


@over("size, place", [(1, "last"), (2, "first"), (0.3, "random"), (3, "random"), (0.5, "last"), (99, "last")])
def test_what_is_held_out_of_each_user_and_the_rest_are_all_of_it_and_nothing_twice(size, place):
    whole = users_of()
    rest, held = HeldOut(size, place).split(whole)
    for before, left, out in zip(whole.labels, rest.labels, held.labels, strict=True):
        items = before[0][before[0] >= 0].tolist()
        stays, taken, known = ([i for i in row.tolist() if i >= 0] for row in (left[0], out[0], out[1]))
        number = min(size if isinstance(size, int) else round(size * len(items)), len(items) - 1)
        assert len(taken) == number
        assert [item for item in items if item in stays] == stays == known
        assert sorted(stays + taken) == sorted(items)
        if place == "last":
            assert taken == items[len(items) - number :]
        elif place == "first":
            assert taken == items[:number]
        assert (left[1] == -100).all()
    assert torch.equal(rest.index, held.index)
    again = HeldOut(size, place).split(whole.subset(torch.arange(5, 12)))[1]
    width = min(again.labels.shape[2], held.labels.shape[2])
    assert torch.equal(again.labels[..., :width], held.labels[5:12, :, :width])  # whatever else the set holds


def test_the_items_known_before_stay_known():
    labels = torch.tensor([[[4, 2, 7], [1, -100, -100]]])
    rest, held = HeldOut(1, "last").split(TensorSet.of(torch.zeros(1, 1).long(), labels, classes=9, task=RANKING))
    assert rest.labels.tolist() == [[[4, 2], [1, -100]]]
    assert held.labels.tolist() == [[[7, -100, -100], [1, 4, 2]]]


def test_nothing_to_hold_out_is_refused():
    one = TensorSet.of(torch.zeros(1, 1).long(), torch.tensor([[[4], [-100]]]), classes=9, task=RANKING)
    with pytest.raises(InputError, match=r"^found 1, which holds out no interaction of 1 users; expected"):
        HeldOut(1, "last").split(one)


@over(
    "content, keys, said",
    [
        ("user,thing\na,1\n", {}, "item: there is no column 'item' in '.*'; "),
        ("user,item\na,1\na,\n", {}, "column 'item' is empty in row 2; fill it in"),
        ("user,item\na,1\na\n", {}, "line 3 has 1 cells, the first has 2"),
        ("1,2\n1,3\n", {}, "user: there is no column .* its first line has no names, give them as columns"),
        ("5,2\n1,3\n", {}, "its first line has numbers"),
        ("1,2,3\n1,3,3\n", {"columns": ("user", "item")}, "line 1 has 3 cells, columns names 2"),
        ("user,item,t\na,1,x\n", {"order": "t"}, "column 't', row 1: found 'x'; expected a number"),
        ("user,item\na,1\n", {"order": "t"}, "order: there is no column 't'"),
        ("user,item\na,1\nb,1\n", {}, "found 1 item; expected 2 or more"),
        ("user,item\na,1\nb,2\n", {}, "test: found 1, which holds out no interaction of 2 users"),
        ("user,item\na,1\na,2\n", {"at_least": 3}, "found no users and items with 3 interactions"),
        ("user,item\n", {}, "has no rows below the header line"),
        ("user,item\na,1\na,2\n", {"delimiter": "ab"}, "delimiter: found 'ab'"),
        ("user,item\na,1\na,2\n", {"at_least": 0}, "at_least: found 0"),
        ("user,item\n" + "a" * 300 + ",1\n" + "a" * 300 + ",2\n", {}, "input name 'aaa.*300 letters"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(content, keys, said, tmp_path):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises((DataError, InputError), match=said) as caught:
        data.interactions(str(tmp_path / "a.csv"), **keys)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_missing_file_is_refused_in_one_line(tmp_path):
    packed = gzip.compress(written(ROWS * 50).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "no.csv.gz").write_bytes(b"user,item\n")
    np.savez(tmp_path / "shapes.npz", user=np.zeros((2, 2)), item=np.zeros(2))
    np.savez(tmp_path / "lengths.npz", user=np.zeros(3), item=np.zeros(2))
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("cut.csv.gz", "is not a CSV file"),
        ("no.csv.gz", "cannot be read"),
        ("shapes.npz", "array 'user' is float64"),
        ("lengths.npz", "arrays of different lengths"),
        ("empty", "found no .csv, .tsv, .npz file in the folder"),
        ("none.csv", "found no such file or folder"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            data.interactions(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_labels_of_a_ranking_are_checked():
    users = torch.arange(2)[:, None]
    for labels, said in (
        (torch.zeros(2, 3, 4), "labels are torch.float32"),
        (torch.arange(12).view(2, 3, 2), r"found labels of shape \(2, 3, 2\); expected \(n, 2, items\)"),
        (torch.tensor([[[1, 2], [-100, -100]], [[3, 4], [-100, 3]]]), "sample 1 names item 3 twice"),
        (torch.tensor([[[1, 9]] * 2] * 2), "twice"),
        (torch.tensor([[[1], [9]]] * 2), r"sample 0 has label 9 at \(1, 0\), expected 0 to 4"),
    ):
        with pytest.raises(DataError, match=said):
            TensorSet.of(users, labels, classes=5, task=RANKING)
    for inputs, said in ((users.float(), "expected int64, numbers of names"), (users + 1, "inputs: found 1 to 2")):
        with pytest.raises(DataError, match=said):
            TensorSet.of(inputs, vocabulary=["a", "b"])
    assert TensorSet.of(users, vocabulary=["a", "b"]).source != TensorSet.of(users, vocabulary=["a", "c"]).source


def test_drawn_interactions_follow_their_seed_and_their_odds():
    first, again, other = (data.synthetic_interactions(users=40, items=30, each=6, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.labels, again.train.labels)
    assert not torch.equal(first.train.labels, other.train.labels)
    assert first.train.labels[:, 0].shape == (40, 5)
    alike = data.synthetic_interactions(users=2000, items=10, each=3, sharpness=0.0)
    counts = torch.bincount(alike.train.labels[:, 0].flatten(), minlength=10)
    assert float(counts.min()) > 330  # 400 each, with a deviation of 17
    with pytest.raises(InputError, match="each: found 31, expected at most 30"):
        data.synthetic_interactions(users=4, items=30, each=31)
