"""Cells of tables as people write them: numbers, missing values, labels, headers, and what is said of each."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data import Column, Columns, table
from limbeck.data.cells import is_number
from limbeck.errors import DataError, DataWarning, LimbeckError
from limbeck.tasks import REGRESSION
from walk import over


def read(tmp_path, text, label="y", **keys):
    """Read a table, its warnings left to `notes`."""
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return table(str(path), label, **keys)


def labelled(names, rows=30):
    return "x,y\n" + "".join(f"{row},{names[row % len(names)]}\n" for row in range(rows))


def counts(splits):
    labels = torch.cat([splits.train.labels, splits.test.labels])
    return {name: int((labels == place).sum()) for place, name in enumerate(splits.train.class_names)} | {
        None: int((labels == -100).sum())
    }


# --------------------------------------------------------------------------------------------------------------- labels


@over("word", ["none", "None", "NA", "n/a", "N/A", "nan", "null", "NULL", "?"])
def test_a_word_for_a_missing_value_is_a_class_like_any_other(tmp_path, word):
    found = read(tmp_path, labelled([word, "mild", "severe"]))
    assert counts(found) == dict.fromkeys(sorted([word, "mild", "severe"]), 10) | {None: 0}
    assert any(f"{word!r} is taken as a class (10 cells" in note for note in found.notes)
    with pytest.raises(DataError, match="among numbers; leave the cell empty"):
        read(tmp_path, labelled([word, "1", "2"]))


def test_an_empty_cell_is_no_label(tmp_path):
    assert counts(read(tmp_path, labelled(["", "a", "b"]))) == {"a": 10, "b": 10, None: 10}
    assert counts(read(tmp_path, labelled(["  ", "1", "2"]))) == {"1": 10, "2": 10, None: 10}


ODD = ["1_1", "nan", "infinity", "Infinity", "inf", "1e", "0x1", "\uff11", "\u0661", "1,5", "one", "1 1", "--1", "1j"]


@over("text", ODD)
def test_a_text_that_only_python_takes_for_a_number_stays_a_text(tmp_path, text):
    assert not is_number(text)
    found = read(tmp_path, labelled([f'"{text}"', "b", "11"]))
    assert counts(found) == {**dict.fromkeys(sorted([text, "b", "11"]), 10), None: 0}


@over(
    ("cells", "names"),
    [
        (["1", "1.0", "2"], ("1", "2")),
        (["1.0", "2.0"], ("1.0", "2.0")),
        (["10", "9", "1e1"], ("9", "10")),
        (["+1", "-1", "1"], ("-1", "1")),
        ([".5", "0.5", "1"], (".5", "1")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["01", "02"], ("01", "02")),
        (["a1", "a1.0"], ("a1", "a1.0")),
    ],
)
def test_labels_that_are_one_number_are_one_class(tmp_path, cells, names):
    assert read(tmp_path, labelled(cells)).train.class_names == names


def test_a_leading_zero_that_alone_tells_two_labels_apart_is_refused(tmp_path):
    with pytest.raises(DataError, match="label 'y': '01' and '1' are the same number; write them the same way"):
        read(tmp_path, labelled(["01", "1", "2"]))


def test_numbers_that_became_classes_are_said(tmp_path):
    many = "x,y\n" + "".join(f"{row},{row % 500 / 7:.4f}\n" for row in range(5000))
    with pytest.raises(DataError, match="500 different cells in 5,000 rows; to predict numbers, set task: regression"):
        read(tmp_path, many)
    assert read(tmp_path, many, task="regression").train.task is REGRESSION
    whole = read(tmp_path, "x,y\n" + "".join(f"{row},{row % 150}\n" for row in range(1500)))
    assert any("150 classes, all numbers; to predict numbers, set task: regression" in note for note in whole.notes)
    assert not read(tmp_path, labelled(["1", "1.5", "2"])).notes


def test_classes_that_look_alike_are_said_and_two_forms_of_one_text_refused(tmp_path):
    found = read(tmp_path, labelled(["yes", "no", "Yes"]))
    assert any("class names 'Yes' and 'yes' look alike and are taken as two" in note for note in found.notes)
    with pytest.raises(DataError, match="occurs twice, in two Unicode forms"):
        read(tmp_path, labelled(["caf\u00e9", "cafe\u0301", "tea"]))


@over("name", ["a\nb", "a\tb", "a\x1b[31m", "\u202eab", "a\u2066", "a\x85b", "a\u2028b"])
def test_a_class_whose_name_is_not_printed_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"holds the unprintable character U\+") as caught:
        read(tmp_path, labelled([f'"{name}"', "c"]))
    assert str(caught.value).isprintable()


def test_names_in_any_script_are_kept_and_long_ones_refused(tmp_path):
    names = ("\u0645\u06cc\u200c\u0646\u0648\u06cc\u0633\u0645", "\u732b", "\U0001f469\u200d\U0001f52c", "na\u00efve")
    assert set(read(tmp_path, labelled(names)).train.class_names) == set(names)
    assert "x" * 256 in read(tmp_path, labelled(["x" * 256, "y"])).train.class_names
    with pytest.raises(DataError, match="has 5,000 letters, expected at most 256"):
        read(tmp_path, labelled(["x" * 5000, "y"]))


def test_labels_to_predict_are_numbers_a_person_writes(tmp_path):
    for cell, said in (("1_1", "found '1_1', expected numbers"), ('"1,5"', "decimal point"), ("inf", "found 'inf'")):
        with pytest.raises(DataError, match=said):
            read(tmp_path, labelled([cell, "2"]), task="regression")
    with pytest.raises(DataError, match=r"labels: values near 1\.7e\+09 differ by"):
        read(tmp_path, labelled([str(1_700_000_000 + each) for each in range(10)]), task="regression")


# -------------------------------------------------------------------------------------------------------------- columns


def columns(cells):
    return "g,y\n" + "".join(f"{cells[row % len(cells)]},{'ab'[row % 2]}\n" for row in range(60))


def test_a_word_for_a_missing_value_is_a_category_and_missing_among_numbers(tmp_path):
    found = read(tmp_path, columns(["None", "Attached", "Built in"]))
    assert found.train.columns.columns[0].categories == ("Attached", "Built in", "None")
    assert any("column 'g': 'None' is taken as a category" in note for note in found.notes)
    for word in ("NA", "none", "?", "<NA>", "#N/A"):
        with pytest.raises(DataError, match="column 'g' is empty in 20 rows"):
            read(tmp_path, columns([word, "1", "2"]))
        assert read(tmp_path, columns([word, "1", "2"]), missing="impute").train.columns.columns[0].fill is not None
    with pytest.raises(DataError, match="column 'g' is empty in 20 rows, first in row 1"):
        read(tmp_path, columns(["", "Attached", "Built in"]))


@pytest.mark.parametrize("cell", ["1,5", "-2,25", "1.234,5"])
def test_a_decimal_comma_is_said(tmp_path, cell):
    with pytest.raises(DataError, match="a decimal comma; expected a decimal point"):
        read(
            tmp_path, columns([cell, "3"]).replace(",a", ";a").replace(",b", ";b").replace("g,y", "g;y"), delimiter=";"
        )


def test_a_column_of_numbers_with_a_stray_text_is_said(tmp_path):
    found = read(tmp_path, columns(["1", "2", "3", "4", "l0"]))
    assert any(
        "column 'g' is nominal, for 12 of its 60 cells are no numbers, first 'l0' in row 5" in n for n in found.notes
    )
    with pytest.warns(DataWarning, match="column 'g' is nominal"):
        table(str(tmp_path / "t.csv"), "y")
    for word in ("inf", "-Infinity"):
        with pytest.raises(DataError, match="which is outside the range of float32"):
            read(tmp_path, columns(["1", word]))


def test_one_category_is_one_however_its_number_is_written(tmp_path):
    found = read(tmp_path, columns(["8001", "8001.0", "01", "1"]), nominal=("g",))
    kept = found.train.columns
    assert kept.columns[0].categories == ("01", "1", "8001")
    for value in (8001, "8001", 8001.0, " 8001.0 "):
        assert kept.inputs([{"g": value}]).tolist() == [[0, 0, 1]]


def test_values_far_from_zero_keep_their_differences(tmp_path):
    """Times of one minute, in seconds since 1970: float32 tells apart no two of them."""
    found = read(tmp_path, columns([str(1_700_000_000 + second) for second in range(60)]))
    batch = found.train.batch(torch.arange(len(found.train)), augment=None, seed=0, view=0).inputs
    seconds = torch.tensor([row % 60 for row in found.train.index.tolist()], dtype=torch.float64)
    expected = (seconds - seconds.mean()) / seconds.std(correction=0)
    torch.testing.assert_close(batch[:, 0].double(), expected, rtol=0, atol=1e-5)
    again = found.train.columns.inputs([{"g": str(1_700_000_000 + int(each))} for each in seconds.tolist()])
    torch.testing.assert_close(again, batch, rtol=0, atol=1e-6)


@given(st.floats(-1e12, 1e12), st.floats(1e-3, 1e3))
def test_a_column_is_standardised_to_a_millionth_wherever_it_lies(tmp_path_factory, centre, spread):
    values = [centre + spread * step for step in range(12)]
    text = "g,y\n" + "".join(f"{value!r},{'ab'[place % 2]}\n" for place, value in enumerate(values))
    found = read(tmp_path_factory.mktemp("far"), text)
    train = torch.tensor([values[place] for place in found.train.index.tolist()], dtype=torch.float64)
    centred = train - train[0]  # exact: the values are near one another
    expected = (centred - centred.mean()) / centred.std(correction=0)
    batch = found.train.batch(torch.arange(len(train)), augment=None, seed=0, view=0).inputs[:, 0]
    torch.testing.assert_close(batch.double(), expected, rtol=0, atol=1e-6 + 2e-16 * abs(centre) / spread * 10)


def test_rows_of_a_user_are_read_as_the_table_was():
    kept = Columns((Column("a", mean=1.0, std=2.0),))
    assert kept.inputs([{"a": " 3.0 "}]).tolist() == [[1.0]]
    for value in ("1_1", "\uff11", "inf", float("inf"), 10**400, "1,5", [1]):
        with pytest.raises(DataError, match="expected numbers"):
            kept.inputs([{"a": value}])


# ---------------------------------------------------------------------------------------------------------------- files


def test_what_spreadsheets_leave_behind_is_read(tmp_path):
    found = read(
        tmp_path,
        b"\xef\xbb\xbfx,y,,\r\n"
        + b"".join(b"%d,%s,,\r\n" % (i, b"ab"[i % 2 :][:1]) for i in range(20))
        + b",,,\r\n" * 3,
    )
    assert len(found.train) + len(found.test) == 20
    assert [column.name for column in found.train.columns.columns] == ["x"]
    assert any("3 rows have no value in any column and are left out" in note for note in found.notes)


FILES = [
    ("x;y\n1;a\n2;b\n", "let delimiter be ';'"),
    ("x\ty\n1\ta\n2\tb\n", r'let delimiter be "\t"'),
    ("1.5,2.5,a\n3.5,4.5,b\n", "label: there is no column 'y' in"),
    (",x,y\n0,1,a\n1,2,b\n", "leave out the numbers of rows (pandas: index=False)"),
    ("x,y\n1,a\n2,b,c\n", "line 3 has 3 cells, the first has 2"),
    ("x,y\n1,caf\u00e9\n".encode("latin-1"), "is not a CSV file in UTF-8"),
    ("x,y\n1,a\n".encode("utf-16"), "save it as 'CSV UTF-8'"),
    ("x\u00e9,xe\u0301,y\n1,2,a\n", "occurs twice, in two Unicode forms"),
    ('x,"a\nb",y\n1,2,a\n', "column name 'a\\nb' holds the unprintable character U+000A"),
    ("x" * 300 + ",y\n1,a\n", "has 300 letters, expected at most 256"),
]


@over(("text", "said"), FILES)
def test_each_file_that_is_no_such_table_is_one_line(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_a_header_that_is_missing_is_said(tmp_path):
    rows = "".join(f"{row}.5,{row},{row % 2}\n" for row in range(1, 30))
    with pytest.raises(DataError, match="its first line has numbers"):
        read(tmp_path, "0.5,3,1\n" + rows, label="1")
    assert read(tmp_path, "0,1,2\n" + rows, label="2").train.class_names == ("0", "1")


def test_quoted_line_breaks_stay_in_their_cells(tmp_path):
    text = "x,t,y\r\n" + "".join(f'{row},"two\r\nlines {row % 2}",{"ab"[row % 2]}\r\n' for row in range(20))
    assert len(read(tmp_path, text).train.columns.columns[1].categories) == 2


@given(st.lists(st.text(max_size=8), min_size=2, max_size=6, unique=True), st.integers(1, 3))
def test_any_labels_are_classes_or_one_line(tmp_path_factory, names, repeats):
    cells = [name.replace('"', "'") for name in names for _ in range(3 * repeats)]
    text = "x,y\n" + "".join(f'{row},"{cell}"\n' for row, cell in enumerate(cells))
    try:
        found = read(tmp_path_factory.mktemp("any"), text.encode(errors="surrogatepass"))
    except LimbeckError:
        return
    known = counts(found)
    assert known[None] == sum(not cell.strip() for cell in cells)
    assert set(known) - {None} <= {cell.strip() for cell in cells}
    assert sum(known.values()) == len(cells)
