"""Tables as they lie around: dates, missing cells, other files than CSV, and parts by group, by time or by file."""

import json
import math
from datetime import date, datetime, timedelta

import pytest
import torch

from limbeck.config import Recipe
from limbeck.data import Description, sentences, table
from limbeck.data.dates import date_numbers, day_of
from limbeck.data.table_split import RowSplit
from limbeck.errors import DataError, InputError, RecipeError
from limbeck.experiment.parts import prepare
from walk import over

FIRST = date(2026, 1, 30)
ROWS = [
    {"day": (FIRST + timedelta(days=7 * n)).isoformat(), "shop": f"s{n // 6}", "sold": n % 7, "good": "ny"[n % 2]}
    for n in range(60)
]


def csv(path, rows, **changed):
    rows = [{**row, **{key: change(n) for key, change in changed.items()}} for n, row in enumerate(rows)]
    lines = [",".join(rows[0]), *(",".join(str(each) for each in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def inputs(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0).inputs


# ---------------------------------------------------------------------------------------------------------------- dates


def test_dates_become_days_seasons_and_weekdays(tmp_path):
    splits = table(csv(tmp_path / "a.csv", ROWS), "good", drop=("shop", "sold"))
    assert splits.train.input_shape == (10,)
    days = [(date.fromisoformat(row["day"]) - date(1970, 1, 1)).days for row in ROWS]
    own = torch.tensor([float(days[n]) for n in splits.train.index.tolist()], dtype=torch.float64)
    mean, std = own.mean(), own.std(correction=0)
    found, whole = inputs(splits.test), splits.test.index.tolist()
    for row, n in zip(found, whole, strict=True):
        day = date.fromisoformat(ROWS[n]["day"])
        assert math.isclose(row[0], (days[n] - mean) / std, abs_tol=1e-6)
        angle = 2 * math.pi * (day.timetuple().tm_yday - 1) / 365.25
        assert abs(row[1] - math.sin(angle)) < 0.02  # within a day
        assert abs(row[2] - math.cos(angle)) < 0.02
        assert row[3:].argmax() == day.weekday()
        assert row[3:].sum() == 1
    assert any("'day' is read as dates" in note for note in splits.notes)


def test_times_of_the_day_count_where_there_are_any(tmp_path):
    rows = [{"at": f"2026-11-{n % 28 + 1:02}T{n % 24:02}:30", "good": "ny"[n % 2]} for n in range(40)]
    splits = table(csv(tmp_path / "a.csv", rows), "good")
    assert splits.train.input_shape == (12,)
    n = int(splits.train.index[0])
    angle = 2 * math.pi * (n % 24 + 0.5) / 24
    torch.testing.assert_close(inputs(splits.train)[0, 10:], torch.tensor([math.sin(angle), math.cos(angle)]))


def test_dates_in_another_format_and_as_categories(tmp_path):
    path = csv(tmp_path / "a.csv", ROWS, day=lambda n: (FIRST + timedelta(days=n)).strftime("%d.%m.%Y"))
    assert table(path, "good", dates={"day": "%d.%m.%Y"}, drop=("shop",)).train.input_shape == (11,)
    path = csv(tmp_path / "b.csv", ROWS, day=lambda n: (FIRST + timedelta(days=n % 3)).isoformat())
    assert table(path, "good", nominal=("day",), drop=("shop", "sold")).train.input_shape == (3,)


def test_a_run_predicts_from_dates_of_any_make(tmp_path):
    described = Description.of(table(csv(tmp_path / "a.csv", ROWS), "good", drop=("shop",), missing="indicate").train)
    rows = [{"day": each, "sold": 3} for each in ("2026-03-06", date(2026, 3, 6), datetime(2026, 3, 6))]
    found, _ = described.read(rows)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    with pytest.raises(DataError, match=r"column 'day': found \['soon'\], expected dates \(iso\)"):
        described.read([{"day": "soon", "sold": 3}])
    with pytest.raises(DataError, match="'day' is nominal or dates"):
        described.read(torch.zeros(1, 2))


@over(
    ("keys", "change", "message"),
    [
        ({}, lambda n: "soon" if n == 4 else ROWS[n]["day"], "column 'day', row 5: found 'soon' among dates"),
        ({"dates": {"day": "%d.%m.%Y"}}, lambda n: ROWS[n]["day"], "row 1: found '2026-01-30', expected a date (%d.%m"),
        ({"dates": {"dy": "iso"}}, lambda n: "", "dates: there is no column 'dy'"),
    ],
)
def test_a_cell_that_is_no_date_is_named(tmp_path, keys, change, message):
    with pytest.raises(DataError) as caught:
        table(csv(tmp_path / "a.csv", ROWS, day=change), "good", **keys)
    assert message in str(caught.value)


def test_a_zone_counts_and_a_missing_date_has_no_parts():
    assert day_of("2026-11-30T01:00+01:00", "iso") == day_of("2026-11-30", "iso")
    found = date_numbers(torch.tensor([math.nan], dtype=torch.float64), 20_000.3, 5.0, clock=True)
    assert torch.equal(found, torch.zeros(1, 12))


# -------------------------------------------------------------------------------------------------------------- missing


def test_missing_cells_have_an_indicator_and_the_training_mean(tmp_path):
    empty = {"sold": lambda n: "" if n % 5 == 0 else n, "shop": lambda n: "" if n % 4 == 0 else n // 2 % 2}
    path = csv(tmp_path / "a.csv", ROWS, **empty)
    splits = table(path, "good", nominal=("shop",), drop=("day",), missing="indicate")
    assert splits.train.input_shape == (3 + 2,)
    for part in (splits.train, splits.test):
        for row, n in zip(inputs(part), part.index.tolist(), strict=True):
            assert row[2] == (n % 4 == 0)
            assert row[4] == (n % 5 == 0)
            if n % 4 == 0:
                assert row[:2].tolist() == [0, 0]
            if n % 5 == 0:
                assert row[3] == 0  # the mean, standardised
    assert abs(float(inputs(splits.train)[:, 3].mean())) < 1e-6
    described = Description.of(splits.train)
    found, _ = described.read([{"shop": "", "sold": None}])
    assert found.tolist() == [[0, 0, 1, 0, 1]]


def test_a_column_without_missing_cells_has_no_indicator(tmp_path):
    path = csv(tmp_path / "a.csv", ROWS, day=lambda n: n)
    assert table(path, "good", drop=("shop",), missing="indicate").train.input_shape == (2,)


# ---------------------------------------------------------------------------------------------------------------- files


def test_json_lines_and_parquet_are_the_same_table(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    expected = table(csv(tmp_path / "a.csv", ROWS), "good")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    dated = [{**row, "day": date.fromisoformat(row["day"])} for row in ROWS]
    parquet.write_table(arrow.Table.from_pylist(dated), tmp_path / "a.parquet")
    folder = tmp_path / "saved"
    folder.mkdir()
    coded = [{**row, "good": "ny".index(row["good"])} for row in ROWS]
    names = {b"huggingface": json.dumps({"info": {"features": {"good": {"names": ["n", "y"]}}}}).encode()}
    rows = arrow.Table.from_pylist(coded).replace_schema_metadata(names)
    with arrow.OSFile(str(folder / "d.arrow"), "wb") as file, arrow.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    for name in ("a.jsonl", "a.parquet", "saved"):
        found = table(str(tmp_path / name), "good")
        assert torch.equal(inputs(found.train), inputs(expected.train)), name
        assert torch.equal(found.test.labels, expected.test.labels), name
        assert found.train.class_names == ("n", "y")
        texts = sentences(str(tmp_path / name), text="day", label="good", test_share=0.5)
        assert texts.train.class_names == ("n", "y")


def test_objects_may_lack_a_column_and_hold_no_lists(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "sold" or n % 3} for n, row in enumerate(ROWS)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert table(str(path), "good", drop=("day", "shop"), missing="indicate").train.input_shape == (2,)
    path.write_text(json.dumps({"a": [1], "good": "y"}))
    with pytest.raises(DataError, match=r"column 'a' holds \[1\]; expected texts and numbers"):
        table(str(path), "good")


# ---------------------------------------------------------------------------------------------------------------- parts


def test_no_group_is_in_two_parts(tmp_path):
    for seed in range(4):
        splits = table(csv(tmp_path / "a.csv", ROWS), "good", split=RowSplit(group="shop"), seed=seed)
        parts = [splits.train, splits.validation, splits.test]
        shops = [{ROWS[n]["shop"] for n in part.index.tolist()} for part in parts]
        assert sum(map(len, shops)) == len(set.union(*shops)) == 10
        assert [len(part) for part in parts] == [42, 6, 12]
        assert "shop" not in [column.name for column in splits.train.columns.columns]


def test_the_latest_rows_are_the_test_part_and_say_nothing_of_the_columns(tmp_path):
    splits = table(csv(tmp_path / "a.csv", ROWS[::-1]), "good", split=RowSplit(time="day", validation_share=0.25))
    [ends, starts] = [[f(part.index.tolist()) for part in (splits.test, splits.validation, splits.train)]
                      for f in (max, min)]  # fmt: skip
    assert ends == [11, 26, 59]
    assert starts == [0, 12, 27]
    sold = next(column for column in splits.train.columns.columns if column.name == "sold")
    assert math.isclose(sold.mean, sum(n % 7 for n in range(33)) / 33)


def test_rows_of_one_time_stay_together(tmp_path):
    values = torch.tensor([1.0] * 4 + [2.0] * 4 + [3.0] * 4)
    parts = RowSplit(time="t", validation_share=0.1).parts(values, 0.2, 0)
    assert {name: values[rows].unique().tolist() for name, rows in parts.items()} == {
        "train": [1.0], "validation": [2.0], "test": [3.0]}  # fmt: skip
    with pytest.raises(DataError, match="split: found 2 times in column 't'; expected enough for 3 parts"):
        RowSplit(time="t").parts(torch.tensor([1.0, 1.0, 2.0]), 0.2, 0)


def test_files_for_testing_and_choices(tmp_path):
    path = csv(tmp_path / "a.csv", ROWS[:40])
    other = [dict(reversed(row.items())) for row in ROWS[40:50]]
    csv(tmp_path / "b.csv", other)
    csv(tmp_path / "c.csv", ROWS[50:])
    splits = table(path, "good", test="b.csv", validation="c.csv")
    assert [len(each) for each in (splits.train, splits.test, splits.validation)] == [40, 10, 10]
    sold = next(column for column in splits.train.columns.columns if column.name == "sold")
    assert math.isclose(sold.mean, sum(n % 7 for n in range(40)) / 40)
    keys = {"kind": "table", "path": "a.csv", "label": "good", "test": "b.csv", "split": {"group": "shop"}}
    recipe = {"name": "r", "data": keys, "student": {"model": {"kind": "mlp"}}}
    with pytest.raises(RecipeError, match="split: found beside a file for testing"):
        prepare(Recipe.parse(recipe, tmp_path))
    parts = prepare(Recipe.parse({**recipe, "data": {**keys, "test": None}}, tmp_path))
    assert len(parts.held_out) == 6


@over(
    ("keys", "error", "message"),
    [
        ({"split": {"group": "shp"}}, DataError, "split: there is no column 'shp'"),
        ({"split": {"group": "shop", "time": "day"}}, RecipeError, "split: found both group and time"),
        ({"split": {}}, RecipeError, "split: found neither group nor time"),
        ({"split": {"time": "shop"}}, DataError, "split: column 'shop' has cells that are neither numbers nor dates"),
        ({"split": {"group": "good"}}, RecipeError, "split: found the label, 'good'"),
    ],
)
def test_splits_that_cannot_be_are_one_line(tmp_path, keys, error, message):
    csv(tmp_path / "a.csv", ROWS)
    data = {"kind": "table", "path": "a.csv", "label": "good", **keys}
    with pytest.raises(error) as caught:
        Recipe.parse({"name": "r", "data": data, "student": {"model": {"kind": "mlp"}}}, tmp_path).load_data()
    assert message in str(caught.value)


def test_a_class_of_the_test_part_alone_is_refused(tmp_path):
    path = csv(tmp_path / "a.csv", ROWS[:40])
    csv(tmp_path / "b.csv", ROWS[40:], good=lambda n: "maybe")
    with pytest.raises(DataError, match="class 'maybe' does not occur in the training part"):
        table(path, "good", test="b.csv")
    with pytest.raises(InputError, match="split: found both"):
        RowSplit("a", "b")
