"""Answers that were made elsewhere: arrays, columns and the lines of servers."""

import json

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.cache import CachedTeacher, import_answers
from limbeck.errors import CheckpointError, DataError, InputError
from small_stores import CLASSES, samples_of, stream_of

SAMPLES = samples_of(12)
LOG_PROBS = torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(3)).mul(2).log_softmax(-1).double()


def top(k=4, rows=slice(None)):
    values, ids = LOG_PROBS[rows].topk(k)
    return {"ids": ids.numpy(), "log_probs": values.numpy()}


def asked(teacher, samples=SAMPLES):
    return teacher(samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0))


def written(folder, kind, arrays):
    file = folder / f"answers.{kind}"
    if kind == "npz":
        np.savez(file, **arrays)
        return file
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = len(next(iter(arrays.values())))
    table = {
        name: list(value) if isinstance(value, list | np.ndarray) else [value] * rows for name, value in arrays.items()
    }
    parquet.write_table(pyarrow.table(table), file)
    return file


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_arrays_of_the_likeliest_classes_keep_the_mass_of_the_others(tmp_path, kind):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    file = written(
        tmp_path, kind, top(rows=order) | {"index": order.numpy(), "source": SAMPLES.source, "temperature": 1.0}
    )
    answer = asked(import_answers(file, SAMPLES, tmp_path / "s")).sparse
    log_probs, log_rest = answer.at(1.0)
    assert torch.allclose(log_probs.double(), LOG_PROBS.gather(-1, answer.ids), atol=1e-5)
    assert torch.allclose(log_rest.exp().double(), 1 - LOG_PROBS.topk(4).values.exp().sum(-1), atol=1e-6)
    with pytest.raises(InputError, match="temperature: found 2"):
        answer.at(2.0)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_arrays_of_all_logits_are_dense(tmp_path, kind):
    file = written(tmp_path, kind, {"logits": LOG_PROBS.float().numpy()})
    found = asked(import_answers(file, SAMPLES, tmp_path / "s"))
    assert torch.equal(found.logits, LOG_PROBS.float())
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, CLASSES))
    lb.fit(student, SAMPLES, teacher=CachedTeacher(tmp_path / "s"), epochs=1)


def line_of(row, **more):
    found = {name: value[row].tolist() for name, value in top().items()}
    return {**found, **more}


def lines(folder, content):
    file = folder / "answers.jsonl"
    file.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in content))
    return file


def test_lines_are_read_in_any_order(tmp_path):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist()
    keys = [{"index": row} if row % 2 else {"custom_id": str(row)} for row in order]
    file = lines(tmp_path, [line_of(row, **key) for row, key in zip(order, keys, strict=True)])
    (tmp_path / "arrays").mkdir()
    arrays = import_answers(written(tmp_path / "arrays", "npz", top()), SAMPLES, tmp_path / "t")
    for one, other in zip(
        asked(import_answers(file, SAMPLES, tmp_path / "s")).sparse.at(1.0), asked(arrays).sparse.at(1.0), strict=True
    ):
        assert torch.equal(one, other)


STREAM = stream_of(25, lanes=2, length=6)


def entries(position, form):
    """Return what a server says of the tokens of a sample: the token itself and token 0 or 1 beside it."""
    batch = STREAM.batch(torch.tensor([position]), augment=None, seed=0, view=0)
    labels = batch.labels[0][batch.mask[0]].tolist()
    names = STREAM.tokenizer.names
    rows = [[(label, np.log(0.75)), ((label + 1) % len(names), np.log(0.125))] for label in labels]
    if form == "chat":
        content = [
            {
                "token": names[row[0][0]],
                "top_logprobs": [{"token": names[each], "logprob": value} for each, value in row],
            }
            for row in rows
        ]
        return {"choices": [{"logprobs": {"content": content}}]}
    if form == "ids":
        content = [
            {
                "token": f"token_id:{row[0][0]}",
                "top_logprobs": [{"token": f"token_id:{each}", "logprob": value} for each, value in row],
            }
            for row in rows
        ]
        return {"response": {"body": {"choices": [{"logprobs": {"content": content}}]}}}
    if form == "completion":
        tops = [{names[each]: value for each, value in row} for row in rows]
        return {"choices": [{"logprobs": {"tokens": [names[row[0][0]] for row in rows], "top_logprobs": tops}}]}
    if form == "prompt":
        return {
            "prompt_logprobs": [
                None,
                *({str(each): {"logprob": value, "rank": 1} for each, value in row} for row in rows),
            ]
        }
    return {
        "ids": [[each for each, _ in row] for row in rows],
        "log_probs": [[value for _, value in row] for row in rows],
    }


@pytest.mark.parametrize("form", ["chat", "ids", "completion", "prompt", "lists"])
def test_what_servers_say_of_the_tokens_of_texts(tmp_path, form):
    file = lines(tmp_path, [entries(position, form) for position in range(len(STREAM))])
    teacher = import_answers(file, STREAM, tmp_path / "s")
    for batch in lb.data.Loader(STREAM, 2, seed=0).epoch(0):
        answer = teacher(batch).sparse
        log_probs, log_rest = answer.at(1.0)
        counted = batch.mask
        assert torch.equal(answer.ids[..., 0][counted], batch.labels[counted])
        assert torch.allclose(log_probs[..., 0][counted].exp(), torch.tensor(0.75), atol=1e-6)
        assert torch.allclose(log_rest[counted].exp(), torch.tensor(0.125), atol=1e-6)


def broken(position, change):
    found = entries(position, "chat")
    change(found["choices"][0]["logprobs"]["content"])
    return found


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (broken(0, lambda each: each.pop()), "line 1: 5 answers for the 6 counted tokens of sample"),
        (broken(0, lambda each: each.reverse()), "misaligned"),
        (entries(1, "prompt"), "the answers are to another text, or misaligned"),
        ({"custom_id": "request-0", **entries(0, "chat")}, "custom_id is 'request-0'; expected the sample's place"),
        ({"index": "first", **entries(0, "chat")}, "index is 'first'; expected the sample's place"),
        (broken(0, lambda each: each[0].update(token="w1x")), "is no token of the tokenizer"),
        (broken(0, lambda each: each[0].update(top_logprobs=[])), "have no log-probabilities"),
        (broken(0, lambda each: each[0].pop("top_logprobs")), "no list of top_logprobs"),
        ("{", "no JSON"),
        ("[]", "no object"),
        ("{}", "found no log-probabilities"),
        ('{"index": 10000, "ids": [0], "log_probs": [0]}', "sample 10000 is not in"),
        ('{"temperature": 0.7, "ids": [0], "log_probs": [0]}', "temperature 0.7"),
        ('{"ids": [true], "log_probs": [0]}', "an id is True"),
        ('{"ids": [0], "log_probs": ["x"]}', "a log-probability is 'x'"),
        ('{"ids": [[0], 1], "log_probs": [[0], 1]}', "no lists of one length"),
    ],
)
def test_lines_that_do_not_fit_are_refused_by_their_number(tmp_path, first, said):
    file = lines(tmp_path, [first, *(entries(position, "chat") for position in range(1, len(STREAM)))])
    with pytest.raises(DataError, match=said) as error:
        import_answers(file, STREAM, tmp_path / "s")
    assert str(file) in str(error.value)
    assert not (tmp_path / "s").exists()


def test_a_sample_without_an_answer_is_named(tmp_path):
    file = lines(tmp_path, [line_of(row, index=row) for row in range(11)])
    with pytest.raises(DataError, match="no answer to 1 of the 12 samples"):
        import_answers(file, SAMPLES, tmp_path / "s")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ids": np.full((12, 4), 20)}, "ids: row 0 holds 20; expected class numbers from 0 to 19"),
        ({"ids": np.zeros((12, 4), int)}, "each class once"),
        ({"log_probs": np.full((12, 4), 0.5)}, "at most 0"),
        ({"log_probs": np.full((12, 4), np.nan)}, "log_probs"),
        ({"log_probs": np.full((12, 4), -0.5)}, "add up to 1 at most"),
        ({"log_probs": np.zeros((12, 3))}, "expected the same"),
        ({"index": np.zeros(12, int)}, "index has 1 different places"),
        ({"index": np.arange(12) + 1}, "no answer to 1 of the 12 samples"),
        ({"source": "other"}, "another set"),
        ({"temperature": 4.0}, "at temperature 4.0; expected 1"),
        ({"logits": np.zeros((12, 20))}, "expected logits, or ids and log_probs"),
        ({"labels": np.zeros(12)}, "unknown array 'labels'"),
        ({"temperature": np.ones(2)}, "at temperature .1. 1..; expected 1"),
        ({"temperature": "warm"}, "at temperature warm; expected 1"),
        ({"log_probs": np.full((12, 4), -np.inf)}, "row 0 holds 0; expected a class of some probability"),
        (
            {"ids": np.tile(np.arange(20), (12, 1)), "log_probs": np.full((12, 20), np.log(0.025))},
            "row 0 holds 0.5; expected probabilities of all classes, which add up to 1",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, said):
    with pytest.raises(DataError, match=said):
        import_answers(written(tmp_path, "npz", top() | changed), SAMPLES, tmp_path / "s")


@pytest.mark.parametrize(("dtype", "most"), [("fp16", 1e5), ("fp32", 1e300)])
def test_logits_that_a_type_cannot_hold_are_refused(tmp_path, dtype, most):
    file = written(tmp_path, "npz", {"logits": np.full((12, CLASSES), most)})
    with pytest.raises(DataError, match=f"dtype: found {dtype} for logits up to"):
        import_answers(file, SAMPLES, tmp_path / "s", dtype=dtype)


def test_columns_of_unequal_lengths_keep_the_likeliest_classes(tmp_path):
    arrays = {name: [row[::-1] for row in value.tolist()] for name, value in top().items()}  # the likeliest is last
    arrays = {name: [row[2:] if at == 3 else row for at, row in enumerate(rows)] for name, rows in arrays.items()}
    answer = asked(import_answers(written(tmp_path, "parquet", arrays), SAMPLES, tmp_path / "s")).sparse
    assert torch.equal(answer.ids, LOG_PROBS.topk(2).indices)
    assert torch.allclose(answer.at(1.0)[0].double(), LOG_PROBS.topk(2).values, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"temperature": [1.0] + [4.0] * 11}, "column 'temperature' has several values"),
        ({"source": [SAMPLES.source] + ["x"] * 11}, "column 'source' has several values"),
        ({"ids": [[1, 2, 3], *top()["ids"].tolist()[1:]]}, "row 0 has no two lists of one length"),
        ({"ids": [1] * 12}, "row 0 has no two lists of one length"),
        ({"log_probs": [["x"] * 4] * 12}, "expected numbers"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, changed, said):
    with pytest.raises(DataError, match=said):
        import_answers(written(tmp_path, "parquet", top() | changed), SAMPLES, tmp_path / "s")


def test_logits_of_a_row_that_has_more_are_refused(tmp_path):
    rows = LOG_PROBS.tolist()
    rows[2] = [*rows[2], 9.0]
    with pytest.raises(DataError, match="lists of one length"):
        import_answers(written(tmp_path, "parquet", {"logits": rows}), SAMPLES, tmp_path / "s")


@pytest.mark.parametrize("task", [lb.tasks.MULTILABEL, lb.tasks.DENSE, lb.tasks.REGRESSION], ids=str)
def test_sets_without_one_distribution_a_sample_are_refused(tmp_path, task):
    labels = {"multilabel": torch.ones(12, 3).long(), "dense": torch.ones(12, 4, 4).long()}.get(
        task.name, torch.ones(12, 3)
    )
    samples = lb.data.TensorSet.of(torch.randn(12, 3, 4, 4), labels, task=task)
    file = written(tmp_path, "npz", {"logits": np.zeros((12, samples.classes))})
    with pytest.raises(InputError, match=f"of the task {task.name}; expected one distribution"):
        import_answers(file, samples, tmp_path / "s")


def test_streams_that_are_cut_anew_are_refused(tmp_path):
    with pytest.raises(InputError, match="moving or varying"):
        import_answers(written(tmp_path, "npz", top()), stream_of(moving=True), tmp_path / "s")


def test_too_few_rows_another_file_and_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="11 answers for the 12 samples"):
        import_answers(written(tmp_path, "npz", top(rows=slice(11))), SAMPLES, tmp_path / "s")
    import_answers(written(tmp_path, "npz", top()), SAMPLES, tmp_path / "s")
    with pytest.raises(CheckpointError, match="holds answers to something else"):
        import_answers(written(tmp_path, "npz", top(3)), SAMPLES, tmp_path / "s")
    (tmp_path / "x.csv").write_text("")
    for name in ("x.csv", "none.npz"):
        with pytest.raises(DataError, match=name):
            import_answers(tmp_path / name, SAMPLES, tmp_path / "s")
