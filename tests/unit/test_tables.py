"""Tables: bundled with scikit-learn and from CSV files, numbers standardised and categories spread out."""

import contextlib
import csv
import math
import random
from collections import Counter
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.config import Recipe
from limbeck.data import Columns, TensorSet, bundled, kinds, table
from limbeck.data.columns import Column, RawColumn
from limbeck.errors import DataError, InputError, LimbeckError, RecipeError
from limbeck.experiment.run import distill
from limbeck.experiment.signature import read_signature
from limbeck.runs import RunFolder
from limbeck.tasks import REGRESSION
from walk import over

BUNDLED = {"breast_cancer": (569, 30, 2), "wine": (178, 13, 3), "iris": (150, 4, 3), "digits": (1797, 64, 10)}


def everything(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


def written(path, header, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return str(path)


def people(count=60, seed=0):
    """Rows of age, town, income and whether someone bought: plain Python, no help from the code that is tested."""
    drawn = random.Random(seed)
    rows = []
    for _ in range(count):
        age, town = drawn.randint(18, 80), drawn.choice(["Bern", "Rome", "Oslo"])
        rows.append([age, town, round(drawn.gauss(3000, 500), 2), "yes" if age > 45 else "no"])
    return ["age", "town", "income", "bought"], rows


@pytest.fixture
def shop(tmp_path):
    return written(tmp_path / "shop.csv", *people())


@over("name", BUNDLED)
def test_a_bundled_table_is_standardised_by_its_training_part_alone(name):
    data = bundled(name, seed=3)
    size, width, classes = BUNDLED[name]
    assert len(data.train) + len(data.test) == size
    assert data.train.input_shape == (width,)
    assert data.train.classes == data.test.classes == classes
    train, test = everything(data.train), everything(data.test)
    assert not set(train.index.tolist()) & set(test.index.tolist())
    moves = train.inputs.double().std(0, correction=0)
    torch.testing.assert_close(train.inputs.double().mean(0), torch.zeros(width).double(), rtol=0, atol=1e-5)
    varied = moves > 1e-6  # a pixel that is always white stays 0
    torch.testing.assert_close(moves[varied], torch.ones(int(varied.sum())).double(), rtol=0, atol=1e-4)
    assert float((test.inputs.mean(0).abs()).max()) > 0.02  # its own mean is not taken off


def test_diabetes_is_a_regression_with_one_nominal_column():
    data = bundled("diabetes")
    assert data.train.task is REGRESSION
    assert [column.name for column in data.train.columns.columns if column.categories] == ["sex"]
    assert data.train.input_shape == (11,)
    assert set(data.train.inputs[:, 1:3].flatten().tolist()) == {0.0, 1.0}


def test_a_csv_file_becomes_numbers_as_a_loop_makes_them(shop, tmp_path):
    rows = people()[1]
    data = table(shop, "bought", seed=1)
    assert data.train.class_names == ("no", "yes")
    train = sorted(data.train.index.tolist())
    assert len(data.test) == 12
    towns = sorted({rows[place][1] for place in train})
    assert data.train.columns.columns[1].categories == tuple(towns)
    for part in (data.train, data.test):
        batch = everything(part)
        for number, place in enumerate(part.index.tolist()):
            expected = []
            for column in (0, 1, 2):
                values = [rows[one][column] for one in train]
                if column == 1:
                    expected += [float(rows[place][1] == town) for town in towns]
                else:
                    expected.append((rows[place][column] - fmean(values)) / pstdev(values))
            torch.testing.assert_close(
                batch.inputs[number].double(), torch.tensor(expected).double(), rtol=0, atol=1e-5
            )
            assert part.class_names[int(batch.labels[number])] == rows[place][3]


def test_the_columns_of_a_table_make_the_same_inputs_of_a_users_rows(shop):
    header, rows = people()
    data = table(shop, "bought")
    again = data.train.columns
    for kind in (lambda value: value, str):
        asked = [dict(zip(header, map(kind, rows[place]), strict=True)) for place in data.test.index.tolist()]
        torch.testing.assert_close(again.inputs(asked), everything(data.test).inputs, rtol=0, atol=1e-5)
    for row, said in (
        ({"age": 3, "town": "Bern"}, "it has no column 'income'"),
        ({"age": "x", "town": "Bern", "income": 1}, "column 'age': found ['x'], expected numbers"),
        ({"age": "", "town": "Bern", "income": 1}, "column 'age' is empty"),
    ):
        with pytest.raises(DataError, match=said.replace("[", r"\[").replace("]", r"\]")):
            again.inputs([row])


def test_an_empty_cell_is_refused_or_imputed_from_the_training_part(tmp_path):
    header, rows = people(80)
    for place in range(0, 80, 7):
        rows[place][0] = "NA"
        rows[place][1] = " "
    path = written(tmp_path / "holes.csv", header, rows)
    with pytest.raises(DataError, match=r"holes\.csv: column 'age' is empty in 12 rows, first in row 1"):
        table(path, "bought")
    data = table(path, "bought", missing="impute")
    train = data.train.index.tolist()
    ages = [rows[place][0] for place in train if rows[place][0] != "NA"]
    town = Counter(rows[place][1] for place in train if rows[place][1].strip()).most_common(1)[0][0]
    columns = data.train.columns.columns
    assert columns[0].fill == pytest.approx(fmean(ages))
    assert columns[1].fill == town
    for part in (data.train, data.test):
        batch = everything(part)
        for number, place in enumerate(part.index.tolist()):
            if rows[place][0] == "NA":
                assert abs(float(batch.inputs[number, 0])) < 1e-6
                assert batch.inputs[number, 1:4].tolist() == [float(name == town) for name in columns[1].categories]


def test_a_category_that_the_training_part_has_not_is_all_zeros():
    raw = [RawColumn("town", texts=("a", "b", "c", "a"))]
    columns = Columns.fitted(raw, torch.tensor([0, 1, 3]), impute=False)
    assert columns.encoded(raw).tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]


def test_a_column_that_never_changes_becomes_zeros():
    raw = [RawColumn("same", torch.full((5,), 0.1, dtype=torch.float64))]
    column = Column.fitted(raw[0], torch.arange(5), impute=False)
    assert column.std == 1.0


def test_labels_sort_as_numbers_where_they_are_and_an_empty_one_is_no_label(tmp_path):
    rows = [[i, label] for i, label in enumerate(["10", "9", "", "10", "9", "9", "10", "2", "2", "2"])]
    data = table(written(tmp_path / "n.csv", ["x", "y"], rows), "y", test_share=0.3)
    assert data.train.class_names == ("2", "9", "10")
    assert data.train.labelled_count + data.test.labelled_count == 9


def test_other_tasks_of_a_table(tmp_path, shop):
    assert table(shop, "bought", task="binary").train.task.name == "binary"
    data = table(shop, "income", task="regression", drop=("bought",), nominal=("age",))
    assert data.train.task is REGRESSION
    assert data.train.class_names == ("income",)
    assert data.train.columns.columns[0].categories
    rows = [[1, 2.5], [2, ""], [3, 4.0], [4, 1.0], [5, 2.0]]
    some = table(written(tmp_path / "r.csv", ["x", "y"], rows), "y", task="regression", test_share=0.2)
    assert sum(math.isnan(float(value)) for part in (some.train, some.test) for value in part.labels) == 1


def test_the_split_is_a_function_of_the_seed(shop):
    first, same, other = (table(shop, "bought", seed=seed).test.index.tolist() for seed in (0, 0, 1))
    assert first == same != other


def test_a_semicolon_and_a_byte_order_mark_are_read(tmp_path):
    header, rows = people(20)
    path = written(tmp_path / "s.csv", header, rows, delimiter=";")
    text = (tmp_path / "s.csv").read_text(encoding="utf-8")
    (tmp_path / "s.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert table(path, "bought", delimiter=";").train.columns.columns[0].name == "age"


def test_a_subset_keeps_the_columns(shop):
    part = table(shop, "bought").train.subset(torch.arange(5))
    assert part.columns is not None
    assert part.columns.attributes[1].nominal
    with pytest.raises(DataError, match="its columns become 5 numbers"):
        TensorSet.of(torch.zeros(3, 4), columns=part.columns)


MISTAKES = [
    ({"label": "buoght"}, "did you mean 'bought'"),
    ({"nominal": ("twon",)}, "nominal: there is no column 'twon'"),
    ({"drop": ("x",)}, "drop: there is no column 'x'"),
    ({"drop": ("bought",)}, "drop: found the label"),
    ({"nominal": ("bought",)}, "nominal: found the label"),
    ({"delimiter": ";;"}, "delimiter: found ';;'"),
    ({"delimiter": ";"}, "label: there is no column"),
    ({"drop": ("age", "town", "income")}, "found no column except the label"),
    ({"task": "regression"}, "found 'yes', expected numbers"),
    ({"label": "town", "task": "binary"}, "3 classes, but task binary has 2"),
    ({"label": "income"}, "60 different cells in 60 rows; to predict numbers, set task: regression"),
    ({"test_share": 1.5}, "test_share"),
]


@pytest.mark.parametrize(("keys", "said"), MISTAKES)
def test_each_mistake_is_one_line(shop, keys, said):
    with pytest.raises(LimbeckError, match=said) as caught:
        table(shop, **{"label": "bought", **keys})
    assert isinstance(caught.value, DataError | InputError)
    assert "\n" not in str(caught.value)


@over(
    ("content", "said"),
    [
        (b"", "has no rows below the header line"),
        (b"a,b\n", "has no rows below the header line"),
        (b"a,a\n1,2\n", "its first line names 'a' 2 times"),
        (b"a,\n1,2\n", "its first line names '' 1 times"),
        (b"a,b\n1\n", "line 2 has 1 cells, the first has 2"),
        (b'a,b\n"1,2\n', "is not a CSV file in UTF-8"),
        (b"a,b\n\xff,2\n", "is not a CSV file in UTF-8"),
        (b"a,b\n" + b"1e999,x\n2,y\n" * 5, "which is outside the range of float32"),
        (b"a,b\n" + b",x\n,y\n" * 5, "column 'a' is empty in 10 rows"),
        (b"a,b\n1,x\n2,x\n", "1 classes, expected 2 or more"),
        (b"a,b\n1,x\n2,y\n", "test_share"),
        (b"a,b\n" + b"".join(b"t%d,%d\n" % (i, i % 2) for i in range(300)), "has 300 different cells such as 't0'"),
        (b"a,b\n" + b"".join(b"%d,%d\n" % (i, i % 2) for i in range(300)) + b"l0,1\n", "such as 'l0'"),
    ],
)
def test_each_damaged_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(LimbeckError) as caught:
        table(str(path), "b")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read \(No such file"):
        table(str(tmp_path / "gone.csv"), "b")
    with pytest.raises(DataError, match="cannot be read"):
        table(str(tmp_path), "b")


@given(st.binary(max_size=200), st.booleans())
def test_no_file_ends_in_anything_but_a_set_or_an_error_of_ours(tmp_path_factory, content, with_header):
    path = tmp_path_factory.mktemp("fuzz") / "any.csv"
    path.write_bytes((b"a,b\n" if with_header else b"") + content)
    with contextlib.suppress(LimbeckError):
        table(str(path), "b", missing="impute")


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6, width=32), st.sampled_from(["u", "v", "w x"]), st.sampled_from(["p", "q"])),
        min_size=12,
        max_size=40,
    ).filter(lambda rows: all(sum(row[2] == label for row in rows) > 2 for label in "pq"))
)
def test_any_table_that_can_be_written_is_read_back(tmp_path_factory, rows):
    path = written(tmp_path_factory.mktemp("any") / "t.csv", ["x", "town", "y"], rows)
    data = table(path, "y")
    for part in (data.train, data.test):
        for number, place in enumerate(part.index.tolist()):
            stored = part.inputs[part.index[number]]
            first = part.columns.columns[0]
            assert float(stored[0]) == float(torch.tensor((rows[place][0] - first.mean) / first.std))
            names = part.columns.columns[1].categories
            assert [name for name, on in zip(names, stored[1:].tolist(), strict=True) if on] == [
                name for name in names if name == rows[place][1]
            ]


# -------------------------------------------------------------------------------------------------------------- recipes


def test_the_kinds_are_reachable_and_a_run_keeps_its_columns(shop, tmp_path):
    assert {"bundled", "table"} <= set(kinds())
    recipe = Recipe.parse(
        {
            "name": "shop",
            "data": {"kind": "table", "path": shop, "label": "bought"},
            "teacher": {"estimator": {"kind": "random_forest", "n_estimators": 5}},
            "student": {"model": {"kind": "mlp", "hidden": [4]}},
            "training": {"epochs": 2},
        }
    )
    folder = RunFolder.create(tmp_path / "runs", "shop", recipe.to_yaml(), ["test"])
    outcome = distill(recipe, folder, cache=tmp_path / "cache")
    assert outcome.seeds[0].teacher.accuracy > 0.7
    assert read_signature(folder.path).students.columns == recipe.load_data().train.columns


@over(
    ("data", "said"),
    [
        ({"kind": "bundled"}, "data.name: is missing"),
        ({"kind": "bundled", "name": "irs"}, "data.name: found 'irs'"),
        ({"kind": "table", "path": "x.csv"}, "data.label: is missing"),
        ({"kind": "table", "path": "x.csv", "label": "y", "missing": "drop"}, "data.missing: found 'drop'"),
        ({"kind": "table", "path": "x.csv", "label": "y", "nominal": "a"}, "data.nominal: found 'a'"),
        ({"kind": "tabel"}, "data.kind: found 'tabel'; did you mean 'table'"),
    ],
)
def test_each_mistake_in_a_recipe_is_one_line(data, said):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({"name": "a", "data": data, "student": {"model": {"kind": "mlp"}}})
    assert said in str(caught.value)
