"""limbeck explain: keys, sections and the schema, in words and as JSON."""

import json

from fuzzing import command


def test_a_key_is_explained():
    code, out, err = command("explain", "training.learning_rate")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["training.learning_rate", "At the peak of the schedule."]
    assert "type     a number, above 0" in lines
    assert "default  0.1" in lines
    assert any(line.startswith("where    training.learning_rate, teacher.training.learning_rate") for line in lines)
    assert "example  training: {learning_rate: 0.1}" in lines


def test_a_section_lists_its_keys():
    code, out, _ = command("explain", "data.table")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("data.table.")]
    assert {"data.table.path", "data.table.label", "data.table.missing"} <= set(listed)
    code, out, _ = command("explain", "model")
    assert "model.factory.factory" in out or "model.factory" in out
    assert code == 0


def test_a_key_of_several_kinds_is_listed_for_each():
    code, out, _ = command("explain", "method.temperature")
    assert code == 0
    assert any(line.startswith("method.kd.temperature ") for line in out.splitlines())
    assert any(line.startswith("method.dkd.temperature ") for line in out.splitlines())


def test_all_sections_are_listed():
    code, out, err = command("explain")
    assert code == 0
    assert "limbeck explain" in err
    named = {line.split()[0] for line in out.splitlines()}
    assert {"recipe", "data", "model", "method", "scheme", "training", "teacher", "student", "target"} <= named
    code, out, _ = command("explain", "--json")
    assert named == {each["section"] for each in json.loads(out)}


def test_as_json():
    code, out, _ = command("explain", "method.kd.alpha", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["key"], found["range"], found["required"]) == ("method.kd.alpha", "from 0 to 1", False)
    assert found["schema"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1}
    code, out, _ = command("explain", "training", "--json")
    assert [key["key"] for key in json.loads(out)["keys"]][:2] == ["training.epochs", "training.batch_size"]


def test_the_schema_is_printed():
    code, out, _ = command("explain", "--schema")
    assert code == 0
    assert json.loads(out)["$schema"].endswith("2020-12/schema")
    code, _, err = command("explain", "training", "--schema")
    assert code == 2
    assert "leave one out" in err


def test_an_unknown_key_is_one_line_with_the_nearest():
    code, out, err = command("explain", "training.lerning_rate")
    assert (code, out) == (2, "")
    assert err == (
        "limbeck: explain: there is no key 'training.lerning_rate'; did you mean 'training.learning_rate'?\n"
    )
