"""limbeck cache: a teacher's answers on disk, built, described and verified."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.distill import resolve
from limbeck.cli.showing import Trust, say, show, show_json, table, watching
from limbeck.errors import InputError, command

if TYPE_CHECKING:
    from limbeck.cache import Store
    from limbeck.config import Recipe
    from limbeck.data import SampleSet
    from limbeck.experiment.parts import Parts

__all__ = ["ask", "build", "import_", "info", "verify"]

cache = typer.Typer(help="Store a teacher's answers on disk: build, describe and verify them.", rich_markup_mode=None)
app.add_typer(cache, name="cache")

_RECIPE = typer.Argument(help="a recipe's file, or the name of a packaged one")
_PART = typer.Option(help="the samples that are answered: transfer, which a student learns from, or test")
_OVERRIDES = typer.Argument(help="override settings, as key.path=value")


@cache.command()
def build(
    recipe: Annotated[Path, _RECIPE],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    encoding: Annotated[str | None, typer.Option(help="dense, quantized, topk or sampled; else the recipe's")] = None,
    bits: Annotated[int | None, typer.Option(help="quantized: bits of a logit", min=2, max=8)] = None,
    dtype: Annotated[str | None, typer.Option(help="of stored logits: fp32, fp16 or bf16")] = None,
    k: Annotated[int | None, typer.Option(help="topk: how many classes", min=1)] = None,
    draws: Annotated[int | None, typer.Option(help="sampled: draws for each place", min=1)] = None,
    views: Annotated[int | None, typer.Option(help="how many random views of each sample", min=1)] = None,
    path: Annotated[Path | None, typer.Option(help="the folder; by default one in the cache")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Store the answers of a recipe's teacher to its samples.

    What is there is kept, so that a build that was killed is repeated, and several may run at once: the same command in
    several places, or torchrun with --no-python.
    """
    from limbeck.experiment.storing import build_stores
    from limbeck.ranks import is_first

    quiet = quiet or not is_first()
    given: dict[str, Any] = {"bits": bits, "dtype": dtype, "k": k, "draws": draws, "views": views}
    given["path"] = None if path is None else str(path.absolute())
    loaded = _loaded(recipe, overrides, encoding, {key: value for key, value in given.items() if value is not None})
    last = [0]

    def progress(done: int, total: int) -> None:
        if not quiet and (done == total or done >= last[0] + max(1, total // 20)):
            last[0] = done
            say(f"store: {done:,} of {total:,} shards")

    with watching(quiet=quiet) as watch:
        built = build_stores(loaded, watch=watch, say=lambda line: None if quiet else say(line), progress=progress)
    if not is_first():
        return
    described = [_described(each.teacher.store) for each in built]
    if as_json:
        show_json(described)
    else:
        show(*map(_table, described))
    verified = command("limbeck", "cache", "verify", built[0].folder, recipe, *(overrides or []))
    say(f"store: {built[0].folder} · next: {verified}")


@cache.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="answers that were made elsewhere: .npz, .parquet or .jsonl")],
    recipe: Annotated[Path, _RECIPE],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    path: Annotated[Path, typer.Option(help="the folder of the store")] = Path("store"),
    part: Annotated[str, _PART] = "transfer",
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Store answers to a recipe's samples that were made elsewhere, such as log-probabilities of a served model."""
    from limbeck.cache import import_answers
    from limbeck.config import load_recipe
    from limbeck.experiment.parts import prepare

    loaded = load_recipe(resolve(recipe), overrides or [])
    samples = _part(prepare(loaded, refit=loaded.refit), part)
    clean = loaded.teacher.view == "clean"
    found = _described(import_answers(file, samples, path, clean=clean).store)
    show_json([found]) if as_json else show(_table(found))
    key = "stored" if part == "transfer" else "stored.test"
    say(f"store: {path} · next: teacher.{key}: {path} in a recipe, or limbeck.CachedTeacher({str(path)!r}) in Python")


@cache.command()
def ask(
    recipe: Annotated[Path, _RECIPE],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    *,
    url: Annotated[str, typer.Option(help="of the API, such as http://localhost:8000/v1")],
    model: Annotated[str, typer.Option(help="the name of the model there")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the file, which is added to")] = Path("answers.jsonl"),
    part: Annotated[str, _PART] = "transfer",
    k: Annotated[int, typer.Option(help="how many tokens at each place", min=1)] = 20,
    prompt: Annotated[str | None, typer.Option(help="texts with classes: the question, with {text} in it")] = None,
    names: Annotated[str | None, typer.Option(help="what a reply calls the classes, parted by commas")] = None,
    echo: Annotated[bool, typer.Option("--echo", help="language models: ask as OpenAI's completions do")] = False,
    key_env: Annotated[str, typer.Option(help="the environment variable of the key, if any")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="questions at a time", min=1)] = 4,
    timeout: Annotated[float, typer.Option(help="seconds for one answer")] = 60.0,
    tries: Annotated[int, typer.Option(help="how often a busy server is asked", min=1)] = 6,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Ask a served model about a recipe's texts; the same command goes on where it was interrupted.

    The server speaks the API of OpenAI and gives log-probabilities. Of texts with classes, --prompt is asked in a chat,
    and the probabilities of the classes are those of the reply's first token. Of a language model's texts, the
    log-probabilities of their tokens are asked for. limbeck cache import then makes a store of the file.
    """
    import os

    from limbeck.cache import Server, ask_server
    from limbeck.config import load_recipe
    from limbeck.experiment.parts import prepare

    loaded = load_recipe(resolve(recipe), overrides or [])
    samples = _part(prepare(loaded, refit=loaded.refit), part)
    server = Server(url, model, os.environ.get(key_env) or None, timeout=timeout, tries=tries)
    told = [-1]

    def progress(done: int, total: int) -> None:
        if not quiet and (done == total or done >= told[0] + max(1, total // 20)):
            told[0] = done
            say(f"asked: {done:,} of {total:,} samples")

    called = tuple(each.strip() for each in names.split(",")) if names else ()
    settings: dict[str, Any] = {"k": k, "prompt": prompt, "names": called, "echo": echo, "concurrency": concurrency}
    found = ask_server(server, samples, out, progress=progress, **settings)
    told_part = [] if part == "transfer" else ["--part", part, "--path", "store/test"]
    imported = command("limbeck", "cache", "import", out, recipe, *(overrides or []), *told_part)
    say(f"answers: {found.answers:,} in {out} ({found.before:,} were there before) · next: {imported}")


@cache.command()
def info(
    place: Annotated[Path, typer.Argument(metavar="PATH|RECIPE", help="the folder of a store, or a recipe")],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Describe a store, or the stores of a recipe's samples: what they hold, how, and which views are there."""
    from limbeck.cache import Store

    if place.is_dir():
        folders = [place]
    else:
        from limbeck.experiment.storing import stores_like

        folders = stores_like(_loaded(place, overrides, None, {}))
        if not folders:
            raise InputError(
                f"cache: found no store of the samples of '{place}'; build one with:"
                f" {command('limbeck', 'cache', 'build', place)}"
            )
    described = [_described(Store(folder)) for folder in folders]
    if as_json:
        show_json(described)
    else:
        show(*map(_table, described))


@cache.command()
def verify(
    path: Annotated[Path, typer.Argument(help="the folder of a store")],
    recipe: Annotated[Path, _RECIPE],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    samples: Annotated[int, typer.Option(help="how many samples the teacher is asked about again", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="by which they are chosen", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    trust: Trust = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Compare all checksums of a store, and ask the recipe's teacher again about some samples."""
    from limbeck.experiment.storing import verify_stores

    loaded = _loaded(recipe, overrides, None, {})
    if not trust:
        from limbeck.results.trust import trust_recipe

        trust_recipe(loaded, resolve(recipe))
    with watching(quiet=quiet) as watch:
        found = verify_stores(loaded, path, samples=samples, seed=seed, watch=watch)
    if as_json:
        show_json({"path": str(path), **vars(found)})
        return
    show(
        f"{path}: checksums of {found.rows:,} rows in {len(found.views)} views are right; of {found.samples:,} samples"
        f" that the teacher was asked about again, {found.exact:,} are equal bit for bit and the others to rounding."
    )


def _part(parts: "Parts", name: str) -> "SampleSet":
    """Return the samples of a recipe that an option names."""
    if name not in ("transfer", "test"):
        raise InputError(f"--part: found '{name}'; expected transfer or test")
    return parts.test if name == "test" else parts.transfer


def _loaded(recipe: Path, overrides: list[str] | None, encoding: str | None, given: dict[str, Any]) -> "Recipe":
    """Return a recipe whose teacher is stored on disk, as its own keys, the overrides and the options say."""
    from limbeck.config import load_recipe

    loaded = load_recipe(resolve(recipe), overrides or [])
    store = loaded.keys["teacher"]["store"] if loaded.keys.get("teacher") else {}
    known = dict(store) if isinstance(store, dict) else {}
    if encoding is not None and known.get("encoding", "dense") != encoding:
        known = {key: value for key, value in known.items() if key in ("path", "views")}
    known |= {"encoding": encoding or known.get("encoding", "dense")} | given
    return loaded.with_values({"teacher.store": known})


def _described(store: "Store") -> dict[str, Any]:
    """Return what is to be said of a store."""
    header, folder = store.header, store.folder
    views = {view: len(store.present(view)) for view in store.views()}
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    dense = 4 * header.classes
    for each in header.shape:
        dense *= each
    return {
        "path": str(folder),
        "encoding": header.encoding,
        "samples": header.samples,
        "classes": header.classes,
        "rows": header.rows,
        "bytes_a_row": header.row.stride,
        "share_of_dense": header.row.stride / dense,
        "bytes": size,
        "shards": header.shards,
        "views": views,
        "whole_views": [view for view, there in views.items() if there == header.shards],
        "features": {name: list(shape) for name, shape in header.features.items()},
        "key": vars(header.key),
    }


def _table(found: dict[str, Any]) -> Any:
    kind = ", ".join(f"{key} {value}" for key, value in found["encoding"].items() if key != "kind")
    views = [
        f"{view}" if there == found["shards"] else f"{view} ({there} of {found['shards']} shards)"
        for view, there in found["views"].items()
    ]
    rows = [
        ["encoding", f"{found['encoding']['kind']} ({kind})"],
        ["samples", f"{found['samples']:,}"],
        ["rows a view", f"{found['rows']:,}"],
        ["bytes a row", f"{found['bytes_a_row']:,} ({found['share_of_dense']:.1%} of dense float32)"],
        ["bytes on disk", f"{found['bytes']:,}"],
        ["views", ", ".join(views) or "none"],
        ["teacher", found["key"]["teacher"][:16]],
        ["source", found["key"]["source"][:16]],
        ["augmentation", found["key"]["augmentation"][:16] or "none"],
    ]
    return table(f"store: {found['path']}", ["what", "value"], rows)
