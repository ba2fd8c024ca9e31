"""limbeck predict: what a trained model of a run says of new inputs, where the run's data is not."""

import csv
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.showing import Trust, say
from limbeck.errors import DataError, DataWarning, InputError, RunError, one_of
from limbeck.records import write_aside

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.results.student import TrainedModel

__all__ = ["predict"]

_TABLES = (".csv", ".tsv", ".jsonl", ".json")
_ROWS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run, or of an exported model")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="a table (.csv, .jsonl, .parquet), an .npz or text file, a folder of images, or images",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="a .csv or .npz file to write; else CSV goes to stdout")
    ] = None,
    role: Annotated[str, typer.Option(help="distilled, alone, teacher, or a role of the scheme")] = "distilled",
    seed: Annotated[int | None, typer.Option(help="of the students; else the run's first")] = None,
    key: Annotated[str | None, typer.Option(help="the array of an .npz file; else 'inputs', or its only one")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="separator of the cells of a .csv file; else that of the run's own table")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="samples in a batch")] = 256,
    device: Annotated[str, typer.Option(help="device of the model")] = "cpu",
    trust: Trust = False,
) -> None:
    """Predict new inputs with a trained model of a run; the run's data is not needed."""
    from limbeck.config import load_recipe
    from limbeck.results.student import load
    from limbeck.tasks import Need

    if out is not None and out.suffix not in (".csv", ".npz"):
        raise InputError(f"--out: found '{out}'; expected a .csv or .npz file")
    if out is not None and out.exists():
        raise RunError(f"--out: '{out}' exists; name another file, or delete it")
    model = load(run, role, seed=seed, device=device, trust=trust)
    maps = Need.ONE_CLASS in model.task.meets and model.task.dims[-1] > 2
    if maps and (out is None or out.suffix == ".csv"):
        raise InputError(f"--out: found {out or 'stdout'}; expected an .npz file, because the answers are class maps")
    named = run / "recipe.yaml"
    recipe = load_recipe(named).data.values if named.is_file() else {}  # lb.export writes none
    own = recipe.get("delimiter") or ","
    for option, value, ending in (("--key", key, ".npz"), ("--delimiter", delimiter, ".csv")):
        texts = model.description.form and option == "--delimiter"
        if value is not None and not texts and _ending(inputs[0]) != ending:
            raise InputError(f"{option}: found beside '{inputs[0]}'; expected it with a {ending} file alone")
    parted = own if delimiter is None else delimiter
    if model.description.form:
        batches = _texts(model, inputs, recipe, delimiter)
    else:
        batches = _batches(inputs, key, parted, batch_size)
    names, predictions, probabilities = _answers(model, batches, batch_size)
    if out is not None and out.suffix == ".npz":
        _write_arrays(out, model, names, predictions, probabilities)
    else:
        text = _table(model, names, predictions, probabilities)
        if out is None:
            if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():  # a file, or a pipe
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
            sys.stdout.write(text)
        else:
            write_aside(out, text.encode(errors="surrogateescape"), what="--out")  # as the names of files are
    if out is not None:
        say(f"{len(names):,} answers of {role} (seed {model.seed}) written to {out}")


def _answers(
    model: "TrainedModel", batches: Iterable[tuple[list[str], Any]], batch_size: int
) -> tuple[list[str], list[Any], "Tensor | None"]:
    """Return what each input is called, what is predicted, and the probabilities (None of a regression)."""
    import torch

    from limbeck.data.vocabulary import texts

    names: list[str] = []
    predictions: list[Any] = []
    probabilities: list[Tensor] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        for called, batch in batches:
            predicted, sure = model.answers(batch, batch_size)
            named = model.description.vocabulary and not model.description.form
            names += texts(batch) if named else called
            predictions += list(predicted)
            if sure is not None and model.description.form != "stream":  # of all tokens there are too many
                probabilities.append(sure)
    for each in dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, DataWarning)):
        say(f"note: {each}")
    return names, predictions, torch.cat(probabilities) if probabilities else None


def _texts(
    model: "TrainedModel", inputs: Sequence[Path], recipe: Mapping[str, Any], delimiter: str | None
) -> Iterator[tuple[list[str], Any]]:
    """Yield the texts of a file with their numbers: the columns of a table, or the lines of any other file."""
    from limbeck.data.text_files import decoded, lines_of, read_columns

    if len(inputs) > 1:
        raise InputError(f"INPUT: found {len(inputs)} files; expected one file of texts")
    path, encoding = inputs[0], recipe.get("encoding") or "utf-8"
    named = {"seq2seq": "source", "chat": "prompt"}.get(model.description.form, "text")
    wanted = {"text": recipe.get(named) or named}
    if model.description.form == "pairs":
        wanted["pair"] = recipe.get("pair") or "pair"
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in _TABLES:
        if len(wanted) > 1:
            raise InputError(f"INPUT: found '{path}'; expected a {', '.join(_TABLES)} file with two columns of texts")
        rows = [{"text": line} for line in lines_of(decoded(path, encoding)) if line.strip()]
    else:
        notes: list[str] = []
        columns, _ = read_columns(
            path, delimiter=delimiter, quoting=recipe.get("quoting"), encoding=encoding, notes=notes
        )
        for note in notes:
            say(f"note: {note}")
        for key, name in wanted.items():
            if name not in columns:
                raise DataError(f"{path}: there is no column '{name}' ({key}); {one_of(name, columns)}")
        rows = [
            dict(zip(wanted, row, strict=True))
            for row in zip(*(columns[each] for each in wanted.values()), strict=True)
        ]
    if not rows:
        raise DataError(f"{path}: found no text; expected at least one line")
    yield [str(number) for number in range(1, len(rows) + 1)], rows


def _batches(
    inputs: Sequence[Path], key: str | None, delimiter: str, batch_size: int
) -> Iterator[tuple[list[str], Any]]:
    """Yield inputs with what each is called: a table or an array whole, images a batch at a time."""
    from limbeck.data.images import ENDINGS, images_below
    from limbeck.data.npz import read_array
    from limbeck.data.table_files import read_rows

    if len(inputs) > 1 and any(_ending(path) in (*_ROWS, ".npz") for path in inputs):
        raise InputError(f"INPUT: found {len(inputs)} files; expected one table or .npz file, or only images")
    first = inputs[0]
    for path in inputs:
        if not path.exists():
            raise InputError(
                f"INPUT: found no file '{path}'; expected a table (.csv, .jsonl, .parquet), an .npz file, a folder of"
                " images, or images"
            )
    if _ending(first) in _ROWS:
        doubts: list[str] = []
        header, rows = read_rows(str(first), delimiter, doubts)
        for doubt in doubts:
            say(f"note: {first}: {doubt}")
        yield [str(number) for number in range(1, len(rows) + 1)], [dict(zip(header, row, strict=True)) for row in rows]
        return
    if _ending(first) == ".npz":
        array = read_array(str(first), key)
        if not array.ndim:
            raise DataError(f"INPUT: '{first}' holds a single number; expected samples, (n, ...)")
        yield [str(number) for number in range(len(array))], array
        return
    images = [image for path in inputs for image in (images_below(path) if path.is_dir() else [path])]
    if not images:
        raise DataError(f"INPUT: '{first}' contains no images; expected {', '.join(sorted(ENDINGS))} files")
    for path in images:
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"INPUT: found '{path}'; {one_of(path.suffix, ['.csv', '.npz', *sorted(ENDINGS)])}")
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        yield [path.as_posix() for path in part], part


def _ending(path: Path) -> str:
    """Return what a file's name says of its kind; of a folder nothing."""
    return "" if path.is_dir() else path.suffix.lower()


def _table(
    model: "TrainedModel", names: Sequence[str], predictions: Sequence[Any], probabilities: "Tensor | None"
) -> str:
    """Return the answers as CSV: what the input is called, the prediction, and a probability for each class."""
    from torch import Tensor

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if probabilities is None and not isinstance(predictions[0], Tensor):
        writer.writerow(["input", "prediction"])
        joined = [each if isinstance(each, str) else ";".join(each) for each in predictions]
        writer.writerows(zip(names, joined, strict=True))
        return text.getvalue()
    if probabilities is None:
        several = len(predictions) > 0 and predictions[0].dim() > 0
        writer.writerow(["input", *(model.class_names if several else ["prediction"])])
        for name, numbers in zip(names, predictions, strict=True):
            writer.writerow([name, *(map(repr, numbers.tolist()) if several else [repr(numbers.item())])])
        return text.getvalue()
    writer.writerow(["input", "prediction", *(f"p({name})" for name in model.class_names)])
    for name, predicted, sure in zip(names, predictions, probabilities.tolist(), strict=True):
        written = predicted if isinstance(predicted, str) else ";".join(predicted)
        writer.writerow([name, written, *(f"{value:.6g}" for value in sure)])
    return text.getvalue()


def _write_arrays(
    out: Path, model: "TrainedModel", names: Sequence[str], predictions: Sequence[Any], probabilities: "Tensor | None"
) -> None:
    import numpy as np
    import torch

    arrays: dict[str, Any] = {"inputs": np.array(names), "class_names": np.array(model.class_names)}
    if probabilities is not None:
        arrays["probabilities"] = probabilities.numpy()
    if isinstance(predictions[0], torch.Tensor):
        arrays["predictions"] = torch.stack(list(predictions)).numpy()
    else:
        arrays["predictions"] = np.array([each if isinstance(each, str) else ";".join(each) for each in predictions])
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_aside(out, content.getvalue(), what="--out")
