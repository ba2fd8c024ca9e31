"""Whatever a recipe or a file holds, limbeck answers with a result or with one line, soon, and writes where it may.

The cases are drawn from numbered seeds, so that a failure names the one that made it.
"""

import contextlib
import copy
import functools
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import limbeck as lb
from limbeck import data
from limbeck.cli import main
from limbeck.config import Recipe, load_recipe
from limbeck.errors import LimbeckError
from limbeck.recipes.packaged import find, names
from limbeck.report import build
from limbeck.runs import RunFolder
from limbeck.schemes import FinishedRun, assess_run, build_student, distil, prepare
from limbeck.schemes.comparing import compare_runs
from limbeck.schemes.keeping import keep, kept
from limbeck.schemes.preparing import seeded_build
from limbeck.schemes.teaching import wrap_teacher
from limbeck.training import checkpoints, fit, load_weights

LONGEST = 5.0  # seconds
HOSTILE = "<script>alert(1)</script>"


def cases(few: int, many: int, parts: int = 20) -> list:
    """Ranges of seeds: some by default, and under `slow` many, in parts."""
    each = many // parts
    slow = [
        pytest.param(range(part * each, (part + 1) * each), id=f"all-{part}", marks=pytest.mark.slow)
        for part in range(parts)
    ]
    return [pytest.param(range(10**6, 10**6 + few), id="some"), *slow]


# -------------------------------------------------------------------------------------------- what a process gets up to


class Watch:
    """Notes what this process writes outside a folder, and what it runs."""

    folder: str | None = None
    found: ClassVar[list[str]] = []

    @classmethod
    def hook(cls, event: str, arguments: tuple) -> None:
        if cls.folder is None:
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "subprocess.Popen"):
            if not (event == "subprocess.Popen" and list(arguments[1])[:2] == ["git", "rev-parse"]):
                cls.found.append(f"{event} {arguments}")
        elif event in ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree", "os.symlink", "os.truncate"):
            mode = arguments[1] if event == "open" else "w"
            flags = arguments[2] if event == "open" else 0
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(arguments[0], str | os.PathLike):
                path = str(Path(os.fspath(arguments[0])).absolute())
                if not path.startswith((cls.folder, "/dev/null", "/tmp/torchinductor_")):
                    cls.found.append(f"{event} {path}")


sys.addaudithook(Watch.hook)


@pytest.fixture(autouse=True)
def confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own, without a network, and let nothing be written elsewhere or run."""

    def offline(address: str) -> bytes:
        raise OSError("no network in a test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setattr("limbeck.data.download._fetched", offline)
    Watch.folder, Watch.found = str(tmp_path.parent.parent), []
    yield
    Watch.folder = None
    assert not Watch.found


def answered(call: Callable[[], Any]) -> Any:
    """Return what a call returns or the line that it is refused with; neither may take long."""
    began = time.process_time()
    try:
        found = call()
    except LimbeckError as error:
        found = str(error)
        code = error.exit_code
    if isinstance(found, str):
        assert code == 2, found
        assert found.isprintable()
        assert 0 < len(found) < 1100, found
    assert time.process_time() - began < LONGEST
    return found


def command(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["limbeck", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return end.value.code or 0, out.getvalue(), err.getvalue()


# -------------------------------------------------------------------------------------------------------------- recipes


MAXIMAL: dict[str, Any] = {
    "name": "maximal",
    "summary": "every section",
    "data": {"kind": "digits", "transfer": {"fraction": 0.5, "omit": [3], "labels": True}},
    "teacher": {
        "model": {"kind": "cnn", "channels": [4, 4], "dropout": 0.1, "batch_norm": True},
        "training": {"epochs": 2, "schedule": "step", "milestones": [1.0], "augment": {"shift": 1, "noise": 0.1}},
        "method": {"name": "hard", "label_smoothing": 0.1},
        "seed": 0,
        "view": "clean",
        "store": True,
    },
    "student": {"model": {"kind": "mlp", "hidden": [4], "dropout": 0.1, "input_dropout": 0.1}},
    "method": {"name": "kd", "temperature": {"kind": "linear", "start": 8.0, "end": 2.0, "steps": 5}, "alpha": 0.2},
    "training": {
        "epochs": 3,
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "clip": 1.0,
        "max_norm": 2.0,
        "averaging": 0.9,
        "keep": "best",
        "patience": 2,
        "schedule": "one_cycle",
        "weight_decay": 0.01,
        "accumulate": 2,
        "warmup": 0.5,
        "precision": "fp32",
        "workers": 0,
        "checkpoint_seconds": 5.0,
    },
    "validation": 100,
    "search": {"training.learning_rate": [0.01, 0.1]},
    "refit": False,
    "seeds": [0, 1],
    "trackers": [],
    "expect": {"gap_closed": 0.1, "teacher_errors": 3, "distilled_errors": 20.5},
}
SOURCES: list[dict[str, Any]] = [
    {"kind": "npz", "path": "own.npz", "test_share": 0.3, "seed": 1},
    {"kind": "idx", "folder": "idx", "classes": 10},
    {"kind": "images", "folder": "images", "size": [8, 8], "grey": True, "limit_bytes": 10**6},
    {"kind": "mnist", "folder": "idx"},
    {"kind": "fashion_mnist"},
]
MODELS: list[dict[str, Any]] = [
    {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"},
    {"factory": "no_such_module:make", "arguments": {"width": 3}, "folder": "."},
]
NUMBERS: list[Any] = [-(2**63), -1, 0, 1, 2, 10**9, 2**31, 2**63, 2**64, 10**30, 10**400, -0.0, 1e-320, 0.3, 1e9, 1e308]
TEXTS = [
    *(
        "",
        " ",
        "x",
        "kd",
        "yes",
        "null",
        "~",
        "~nobody/x",
        "../../etc/passwd",
        "/etc/passwd",
        "/",
        "..",
        "a/../../b",
        "\0",
    ),
    *(
        "\x1b[31mred",
        "\u202e\u200b",
        "née 日本 😀",
        "\ud800",
        "a\nb\r\nc",
        "x" * 5000,
        "/".join("y" * 300),
        "C:\\x",
        "%n%s{}{0}",
    ),
    *(
        "__import__('os').system('touch canary')",
        "os:system",
        "[/red]",
        HOSTILE,
        "${HOME}",
        "$(touch canary)",
        "1e3",
        "\x7f",
    ),
]


def junk(draw: random.Random, depth: int = 0) -> Any:
    """Draw a value of any type that YAML has."""
    kind = draw.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.choice(NUMBERS)
    if kind == 2:
        return draw.choice([float("nan"), float("inf"), float("-inf"), draw.uniform(-10, 10)])
    if kind in (3, 4):
        return draw.choice(TEXTS)
    if kind == 5:
        return draw.choice([b"\0\xff", __import__("datetime").date(2026, 1, 1), {"a", "b"}, [], {}])
    if kind == 6:
        nested: Any = draw.choice(TEXTS)
        for _ in range(draw.choice([2, 20, 200])):
            nested = [nested] if draw.random() < 0.5 else {"a": nested}
        return nested
    if kind == 7:
        return [junk(draw, depth + 1) for _ in range(draw.choice([1, 2, 5, 300]) if depth == 0 else 2)]
    keys = [draw.choice([*TEXTS, 3, None, True, "kind", "name", "seed"]) for _ in range(3)]
    return {key: junk(draw, depth + 1) for key in keys}


def typo(draw: random.Random, name: str) -> str:
    at = draw.randrange(len(name) + 1)
    return draw.choice(
        [name[:at] + name[at + 1 :], name[:at] + draw.choice("aeé _.-") + name[at:], name.upper(), name[::-1]]
    )


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container below a value with each of its keys."""
    for key in list(value if isinstance(value, dict) else range(len(value))):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutated(draw: random.Random, given: Any, changes: int = 3) -> Any:
    """Return a copy in which some things are dropped, renamed, added, swapped or replaced."""
    value = copy.deepcopy(given)
    for _ in range(draw.randint(1, changes)):
        found = list(places(value))
        if not found:
            break
        holder, key = draw.choice(found)
        change = draw.choice(["drop", "rename", "add", "replace", "replace", "replace", "swap"])
        if change == "replace":
            holder[key] = junk(draw)
        elif change == "swap":
            other, place = draw.choice(found)
            if key in (holder if isinstance(holder, dict) else range(len(holder))) and place in (
                other if isinstance(other, dict) else range(len(other))
            ):
                holder[key] = copy.deepcopy(other[place])
        elif change == "add" and isinstance(holder, dict):
            holder[draw.choice([*TEXTS, 3, None])] = junk(draw)
        elif change == "rename" and isinstance(holder, dict):
            holder[typo(draw, str(key))] = holder.pop(key)
        else:
            del holder[key]
    return value


def aliased(draw: random.Random) -> str:
    """Write aliases that expand without bound: in lists, in mappings, in merges, and into themselves."""
    levels = draw.choice([5, 12, 40, 400])
    kind = draw.randrange(4)
    lines = ['a0: &a0 ["lol", "lol"]' if kind == 0 else "a0: &a0 {x: 1, y: 2}"]
    for level in range(1, levels):
        below = f"*a{level - 1}"
        if kind == 0:
            lines.append(f"a{level}: &a{level} [{', '.join([below] * 9)}]")
        elif kind == 1:
            lines.append(f"a{level}: &a{level} {{p: {below}, q: {below}, r: {below}}}")
        elif kind == 2:
            lines.append(f"a{level}: &a{level} {{<<: [{', '.join([below] * 9)}]}}")
        else:
            lines.append(f"a{level}: &a{level} {{self: *a{level}, more: {below}}}")
    place = draw.choice(["summary", "seeds", "method", "name", "data", "search"])
    return "\n".join([*lines, f"{place}: *a{levels - 1}", yaml.safe_dump({"training": {"epochs": 1}})])


TAGS = [
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:os.system ['touch canary']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:limbeck.runs.RunFolder {path: /}",
    "!!python/tuple [1, 2]",
    *(
        "!!int x",
        "!!float ''",
        "!!bool x",
        "!!timestamp x",
        "!!binary x",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
    ),
    *(
        "!!null x",
        "!<tag:yaml.org,2002:map> [a]",
        "!local x",
        "! x",
        "0001-01-01T00:00:00+23:00",
        "2026-99-99",
        "1:2:3",
        "0x",
    ),
    *(
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "*nothing",
        "&a *a",
        "%YAML 9.9",
        "--- a\n--- b",
        "'",
        '"\\x"',
        "[",
        "{",
        "}",
        "\t- a",
        "@",
        "`",
    ),
    *(
        "1" * 100_000,
        "0x" + "f" * 50_000,
        "9" * 200_000,
        "1:" * 2000 + "1",
        "[" * 5000,
        "{a: " * 3000,
        "- " * 3000,
        "a" * 200_000,
    ),
]


@functools.cache
def packaged() -> list[dict[str, Any]]:
    return [yaml.safe_load(find(name).recipe.read_text()) for name in names()]


def recipe_file(draw: random.Random) -> bytes:
    """Draw the content of a recipe's file."""
    base = copy.deepcopy(draw.choice([MAXIMAL, MAXIMAL, MAXIMAL, *packaged()]))
    base["data"] |= draw.choice([{}, {}, {}, {}, {}, SOURCES[0], *SOURCES])
    if draw.random() < 0.7:
        base.pop("search", None)
    if draw.random() < 0.35:
        return yaml.safe_dump(nudged(draw, base)).encode()
    if draw.random() < 0.2:
        base[draw.choice(["teacher", "student"])]["model"] = dict(draw.choice(MODELS))
    kind = draw.randrange(20)
    if kind == 0:
        return aliased(draw).encode()
    if kind == 1:  # a value with a tag, somewhere
        lines = yaml.safe_dump(base).splitlines()
        at = draw.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(TAGS)
        return "\n".join(lines).encode()
    if kind == 2:
        return draw.choice(TAGS).encode()
    if kind == 3:
        return draw.randbytes(draw.choice([0, 1, 10, 1000, 300_000]))
    if kind in (4, 5):  # bytes of the file
        return bytes(noisy(draw, yaml.safe_dump(base).encode()))
    changed = mutated(draw, base)
    if kind == 6:
        changed = junk(draw)
    try:
        return yaml.safe_dump(changed, allow_unicode=draw.random() < 0.5, sort_keys=False).encode(
            "utf-8", "surrogatepass"
        )
    except yaml.YAMLError:
        return repr(changed).encode("utf-8", "surrogatepass")
    except RecursionError:  # of what is nested deeper than PyYAML writes
        return b"[" * 2000 + b"]" * 2000


def nudged(draw: random.Random, base: dict[str, Any]) -> dict[str, Any]:
    """Change numbers, truths and texts of a recipe to others of their type: many of these are right."""
    found = [(holder, key) for holder, key in places(base) if not isinstance(holder[key], dict | list)]
    for holder, key in draw.sample(found, draw.randint(1, 2)):
        value = holder[key]
        if isinstance(value, bool):
            holder[key] = not value
        elif isinstance(value, int):
            holder[key] = draw.choice([0, 1, 2, 3, 10, 50, 200, 10**9, 2**31, 2**63, 10**25, 10**400])
        elif isinstance(value, float):
            holder[key] = draw.choice([0.0, 1e-300, 0.1, 0.5, 0.999, 1.0, 3.0, 1e6, 1e30, 1e308])
        elif isinstance(holder, dict):
            holder[key] = draw.choice(
                [value, None, "kd", "hard", "logit_matching", "cosine", "sgd", "last", "bf16", "mlp"]
            )
    return base


def noisy(draw: random.Random, content: bytes) -> bytearray:
    """Return bytes with some flipped, cut, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = draw.randbytes(draw.choice([1, 8, 200]))
        elif kind == 3:
            del changed[at : at + draw.choice([1, 8, 200])]
        else:
            changed[at:at] = changed[at : at + 64]
    return changed


@pytest.mark.parametrize("seeds", cases(300, 10_000))
def test_no_recipe_ends_in_anything_but_a_rehearsal_or_one_line(tmp_path, seeds):
    path, answers = tmp_path / "recipe.yaml", {0: 0, 2: 0}
    np.savez(tmp_path / "own.npz", **arrays())
    for seed in seeds:
        path.write_bytes(recipe_file(random.Random(seed)))
        began = time.process_time()
        code, out, err = command("check", path, "--json")
        took = time.process_time() - began
        assert code in answers, (seed, code, err)
        assert took < LONGEST, (seed, took)
        if code:
            assert out == "", seed
            assert len(err.splitlines()) == 1, (seed, err)
            assert err.startswith("limbeck: "), (seed, err)
            assert err[:-1].isprintable(), (seed, err)
            assert len(err) < 1100, (seed, len(err))
        answers[code] += 1
        assert {each.name for each in tmp_path.iterdir()} <= {"recipe.yaml", "cache", "own.npz"}, seed
    assert answers[0] > len(seeds) // 40  # else nothing but the first check is tested
    assert answers[2] > len(seeds) // 3


@pytest.mark.parametrize("seeds", cases(60, 1000, 2))
def test_no_override_ends_in_anything_but_a_recipe_or_one_line(tmp_path, seeds):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(MAXIMAL))
    for seed in seeds:
        draw = random.Random(seed)
        value = draw.choice([*TAGS, *TEXTS, "[1, 2]", "{a: 1}"])
        keys = [
            draw.choice(["seeds", "method.temperature", "a.b", "training.epochs", "", ".", "data", "method.name.x"])
        ]
        overrides = [f"{draw.choice(keys)}{draw.choice(['=', '', '=='])}{value}" for _ in range(draw.randint(1, 3))]
        found = answered(lambda overrides=overrides: load_recipe(tmp_path / "recipe.yaml", overrides))
        assert isinstance(found, Recipe | str)


@pytest.mark.parametrize(
    "name", ["../../out", "/tmp/out", "a/b", "..", ".", "-x", "a\nb", "a\0b", "ü", "x" * 101, " a", "~", ""]
)
def test_a_run_is_written_into_its_folder_whatever_it_is_called(tmp_path, name):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small() | {"name": name}))
    code, out, err = command("distill", "recipe.yaml", "-q")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "name: found" in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("levels", [8, 30, 2000])
@pytest.mark.parametrize("kind", ["list", "merge", "text"])
def test_aliases_expand_within_bounds(tmp_path, kind, levels):
    start = {"list": "&a0 [x]", "merge": "&a0 {x: 1}", "text": "&a0 '" + "x" * 50_000 + "'"}[kind]
    form = {"list": "[{0}]", "merge": "{{<<: [{0}]}}", "text": "[{0}]"}[kind]
    lines = [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, levels)]
    (tmp_path / "recipe.yaml").write_text("\n".join([f"a0: {start}", *lines])[: 2**18])
    assert isinstance(answered(lambda: load_recipe(tmp_path / "recipe.yaml")), str)


def test_a_few_aliases_are_welcome(tmp_path):
    keys = {key: value for key, value in small().items() if key not in ("teacher", "training")}
    short = "{epochs: 3, learning_rate: 1e-2}"
    (tmp_path / "recipe.yaml").write_text(
        f"{yaml.safe_dump(keys)}teacher: {{model: &m {{kind: mlp, hidden: [4]}}, training: &t {short}}}\n"
        "training: {<<: *t, batch_size: 8}\nsearch: {training.epochs: [2, 3]}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.training.epochs, recipe.training.learning_rate, recipe.training.batch_size) == (3, 0.01, 8)


@pytest.mark.parametrize("text", TAGS[:6])
@pytest.mark.parametrize("place", ["name: {0}", "method: {{name: kd, temperature: {0}}}", "{0}"])
def test_no_tag_of_a_recipe_runs_code(tmp_path, text, place):
    (tmp_path / "recipe.yaml").write_text(place.format(text))
    line = answered(lambda: load_recipe(tmp_path / "recipe.yaml"))
    assert "could not determine a constructor" in line or "expected ' ', but found '}'" in line
    assert not (tmp_path / "canary").exists()


def test_a_search_expands_within_bounds(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            small() | {"search": {f"training.{key}": [0.1] * 100 for key in ("learning_rate", "clip", "momentum")}}
        )
    )
    assert "combinations" in answered(lambda: load_recipe(tmp_path / "recipe.yaml"))


# ----------------------------------------------------------------------------------------------------- sets and weights


def arrays(draw: random.Random | None = None) -> dict[str, Any]:
    return {
        "inputs": np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32),
        "labels": np.arange(60) % 3,
        "class_names": np.array(["a", HOSTILE, "c"]),
    }


def npz_bytes(draw: random.Random) -> bytes:
    """Draw an archive: with arrays of other kinds, with false headers, or with noise."""
    found, file = arrays(), io.BytesIO()
    kind = draw.randrange(6)
    if kind == 0:  # arrays that do not fit
        other = [
            *(
                np.array([{}], dtype=object),
                np.zeros((0, 1, 4, 4)),
                np.zeros(()),
                np.zeros((60, 2), complex),
                np.zeros(60, bool),
            ),
            *(
                np.full((60, 4), np.nan),
                np.array(["x"] * 60),
                np.arange(60) + 2**62,
                -np.arange(60),
                np.zeros((60,) + (1,) * 20),
            ),
            *(
                np.zeros(60, "V8"),
                np.zeros(60, "M8[s]"),
                np.arange(60, dtype=np.uint64) + 2**63,
                np.zeros((60, 4), np.float16),
            ),
        ]
        for _ in range(draw.randint(1, 2)):
            found[draw.choice([*found, "test_inputs", "test_labels", "../x", ""])] = draw.choice(other)
        np.savez(file, **found)
        return file.getvalue()
    if kind == 1:  # headers that promise more than there is
        with zipfile.ZipFile(file, "w") as archive:
            for key, array in found.items():
                body = io.BytesIO()
                np.save(body, array)
                shape = draw.choice(
                    ["(9999999999, 9999)", "(2147483648,)", "(-1, 4)", "(4,) * 9", "()", "(1e9,)", "(10**12,)", "("]
                )
                text = re.sub(rb"'shape': .*?\), \}", f"'shape': {shape}, }}".encode(), body.getvalue())
                archive.writestr(f"{key}.npy", text if draw.random() < 0.7 else body.getvalue())
        return file.getvalue()
    if kind == 2:  # compressed a thousandfold
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
            archive.writestr("inputs.npy", header.getvalue() + bytes(2**20))
            archive.writestr("labels.npy", bytes(2**20))
        content = bytearray(file.getvalue())
        size = struct.pack("<I", draw.choice([2**32 - 2, 2**31, 0]))
        for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # what the archive says of the unpacked size
            if draw.random() < 0.7:
                place = content.index(mark) + at
                content[place : place + 4] = size
        return bytes(content)
    (np.savez_compressed if kind == 3 else np.savez)(file, **found)
    return bytes(noisy(draw, file.getvalue()))


def idx_file(*shape: int, kind: int = 8, body: bytes | None = None) -> bytes:
    header = b"\0\0" + bytes([kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + (bytes(int(np.prod(shape))) if body is None else body)


def idx_bytes(draw: random.Random) -> bytes:
    """Draw an IDX file, gzipped or not: with a false header, with noise, or that unpacks to more than it says."""
    kind = draw.randrange(5)
    if kind == 0:
        sizes = [draw.choice([0, 1, 28, 2**16, 2**31, 2**32 - 1]) for _ in range(draw.choice([0, 1, 2, 3, 5, 64, 255]))]
        content = idx_file(*sizes, kind=draw.choice([8, 8, 9, 13, 0]), body=bytes(draw.choice([0, 1, 784, 10_000])))
    elif kind == 1:
        content = idx_file(2, 2, body=bytes(draw.choice([3, 5, 10**7])))
    else:
        content = bytes(noisy(draw, idx_file(30, 4, 4)))
    if draw.random() < 0.5:
        content = gzip.compress(content, mtime=0)
        return bytes(noisy(draw, content)) if draw.random() < 0.5 else content
    return content


def safetensors_bytes(draw: random.Random, tensors: dict[str, torch.Tensor]) -> bytes:
    """Draw a file of weights: with a false header, with tensors of another kind, or with noise."""
    content = saved(tensors)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    kind = draw.randrange(6)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, length + 1, 10**8 + 1, 2**40, 2**63, 2**64 - 1])) + content[8:]
    if kind == 1:
        names = [name for name in header if name != "__metadata__"]
        entry = header[draw.choice(names)]
        change = draw.randrange(6)
        if change == 0:
            entry["data_offsets"] = draw.choice(
                [[-1, 5], [5, 1], [0, 2**63], [0, 2**64], [0], [], "x", None, [0.5, 1], [0, 8]]
            )
        elif change == 1:
            entry["shape"] = draw.choice([[-1], [2**40, 2**40], [], [0], "x", None, [1.5], [2**64], [1] * 100])
        elif change == 2:
            entry["dtype"] = draw.choice(
                ["F64", "I64", "BOOL", "F16", "BF16", "F8_E4M3", "C64", "U64", "x", None, 3, "F4"]
            )
        elif change == 3:
            header[draw.choice(["", "x" * 1000, "\0", "../x", HOSTILE])] = entry
        elif change == 4:
            del header[draw.choice(names)]
        else:
            header = mutated(draw, header)
        try:
            text = json.dumps(header).encode()
        except TypeError:
            text = repr(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    if kind == 2:
        types = [
            torch.float64,
            torch.int64,
            torch.bool,
            torch.float16,
            torch.complex64,
            torch.uint8,
            torch.float8_e4m3fn,
        ]
        return saved({name: tensor.to(draw.choice(types)) for name, tensor in tensors.items()})
    if kind == 3:
        text = draw.choice([b"[" * 100_000, b'{"a":' * 50_000, b"{}", b"null", b"\xff" * 20, b""])
        return struct.pack("<Q", len(text)) + text
    return bytes(noisy(draw, content))


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    path = Path("saved.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path.read_bytes()


@pytest.mark.parametrize("seeds", cases(80, 2000, 2))
@pytest.mark.parametrize("kind", ["npz", "idx", "safetensors"])
def test_no_malformed_file_ends_in_anything_but_one_line(tmp_path, kind, seeds):
    model = lb.models.mlp((1, 4, 4), 3, hidden=(8,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused = 0
    for seed in seeds:
        draw = random.Random(seed)
        if kind == "npz":
            (tmp_path / "own.npz").write_bytes(npz_bytes(draw))
            found = answered(lambda: data.npz("own.npz"))
        elif kind == "idx":
            (tmp_path / "file").write_bytes(idx_bytes(draw))
            found = answered(lambda: data.read_idx("file"))
        else:
            (tmp_path / "own.safetensors").write_bytes(safetensors_bytes(draw, before))
            found = answered(lambda: load_weights(model, Path("own.safetensors")))
            if isinstance(found, str):
                assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), seed
            model.load_state_dict(before)
        refused += isinstance(found, str)
    assert refused > len(seeds) // 3


def test_no_pickle_is_opened(tmp_path):
    torch.save(lb.models.mlp((1, 4, 4), 3).state_dict(), tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", inputs=np.array([Path()], dtype=object), labels=np.arange(1))
    assert isinstance(answered(lambda: load_weights(lb.models.mlp((1, 4, 4), 3), tmp_path / "a.safetensors")), str)
    assert "never unpickled" in answered(lambda: data.npz(str(tmp_path / "a.npz")))


# ----------------------------------------------------------------------------------------------------- what a run keeps


def small() -> dict[str, Any]:
    short = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "checkpoint_seconds": 0.0}
    return {
        "name": "small",
        "summary": f"{HOSTILE} [/red] \x1b[31m",
        "data": {"kind": "npz", "path": str(Path("own.npz").absolute())},
        "teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": dict(short)},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {**short, "keep": "best", "averaging": 0.9, "optimizer": "adamw"},
        "validation": 10,
    }


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and evaluated run, and a copy of it whose distilled student stands between two checkpoints."""
    place = tmp_path_factory.mktemp("made")

    def crash(look: Any) -> None:
        if look.epoch == 2 and look.label.startswith("distilled"):
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        np.savez("own.npz", **arrays())
        recipe = Recipe.parse(small())
        for name in ("whole", "broken"):
            folder = RunFolder.create(place / name, recipe.name, recipe.to_yaml(), ["limbeck"])
            if name == "whole":
                folder.write_json("outcome.json", distil(recipe, folder).as_dict())
                keep(assess_run(FinishedRun.read(folder.path), with_cost=False).as_dict(), folder.path)
            else:
                with pytest.raises(Crash):
                    distil(recipe, folder, watch=crash)
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    [folder] = (made / "whole" / "small").iterdir()
    return Path(shutil.copytree(folder, tmp_path / "run"))


def damaged_json(draw: random.Random, content: bytes) -> bytes:
    """Draw a JSON file: of other values, not of JSON, nested too deeply, or with noise."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(
            [
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b"",
                b"null",
                b"[]",
                b"{}",
                b"3",
                b'"x"',
                b"NaN",
                b"\xff\xfe",
                b"1" * 5000,
            ]
        )
    if kind == 1:
        return bytes(noisy(draw, content))
    try:
        return json.dumps(mutated(draw, json.loads(content), 2)).encode()
    except (TypeError, ValueError, RecursionError):
        return json.dumps(draw.choice([None, [], {"seeds": []}, {"format": 1}])).encode()


def judged(run: Path, how: str) -> Any:
    """Read a run by one of the public ways."""
    if how == "read":
        return FinishedRun.read(run)
    if how == "evaluate":
        return keep(assess_run(FinishedRun.read(run), with_cost=False).as_dict(), run)
    if how == "compare":
        return compare_runs([run, run]).as_dict()
    return build([run], Path("page.html"), files=False)


WAYS = {
    "outcome.json": ["read", "read", "evaluate", "report"],
    "evaluation.json": ["compare", "compare", "compare", "evaluate"],
    "manifest.json": ["evaluate", "report", "report"],
    "alone-0/metrics.jsonl": ["report"],
    "recipe.yaml": ["read", "compare"],
    "teacher-0.safetensors": ["evaluate", "report"],
    "distilled-0/student.safetensors": ["evaluate", "report"],
}


@pytest.mark.parametrize("seeds", cases(6, 120, 2))
@pytest.mark.parametrize("file", WAYS)
def test_no_damaged_run_ends_in_anything_but_a_result_or_one_line(run, file, seeds):
    content, others = (run / file).read_bytes(), set(run.rglob("*"))
    for seed in seeds:
        draw = random.Random(f"{file} {seed}")
        if file.endswith(".jsonl"):
            lines = content.splitlines()
            at = draw.randrange(len(lines))
            lines[at] = damaged_json(draw, lines[at])
            damaged = b"\n".join(lines)
        else:
            damaged = damaged_json(draw, content) if file.endswith(".json") else bytes(noisy(draw, content))
        (run / file).write_bytes(damaged)
        how = draw.choice(WAYS[file])
        found = answered(lambda how=how: judged(run, how))
        assert found is not None, seed
        if how == "report" and not isinstance(found, str):
            safe(found.read_text(encoding="utf-8"))
            found.unlink()
        for path in set(run.rglob("*")) - others:
            assert re.fullmatch(r"evaluation-\d+\.json|\.lock|\.\w+\.json\.tmp", path.name), (seed, path)
            path.unlink()


class Page(HTMLParser):
    """The scripts and handlers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.handlers = 0, []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.handlers += [value for _, value in attributes if (value or "").lower().startswith("javascript:")]


def safe(text: str) -> None:
    """Require that nothing that a run tells became a part of its page."""
    page = Page(text)
    assert page.scripts <= 1
    assert page.handlers == []
    assert HOSTILE not in text


def test_the_report_and_the_comparison_escape_what_they_show(run, tmp_path):
    outcome = json.loads((run / "outcome.json").read_text())
    outcome["chosen"] = {"alone": {HOSTILE: HOSTILE}, "distilled": {}}
    (run / "outcome.json").write_text(json.dumps(outcome))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest |= {"command": [HOSTILE], "started": HOSTILE, "git": f"{HOSTILE}\ud800"}
    manifest["environment"] |= {"packages": {HOSTILE: HOSTILE}, "devices": [HOSTILE], "platform": HOSTILE}
    manifest["test_reads"].append({"at": HOSTILE, "for": HOSTILE})
    (run / "manifest.json").write_text(json.dumps(manifest))
    other = Path(shutil.copytree(run, tmp_path / "<b>other[/red]"))
    text = (other / "recipe.yaml").read_text().replace("name: small", f"name: x{'y' * 20}", 1)
    (other / "recipe.yaml").write_text(text)
    safe(build([run, other], Path("page.html"), files=False).read_text(encoding="utf-8"))
    code, out, err = command("compare", run, other, "--html", "compared.html")
    assert code == 0, err
    assert "[/red]" in out
    assert "\x1b" not in out
    assert "<b>" not in Path("compared.html").read_text()


def test_a_role_that_is_a_path_is_refused(run):
    outcome = json.loads((run / "outcome.json").read_text())
    for seed in outcome["seeds"]:
        seed["../../../x"] = seed["alone"]
    (run / "outcome.json").write_text(json.dumps(outcome))
    for how in ("read", "evaluate", "report"):
        assert "is damaged" in answered(lambda how=how: judged(run, how))


@pytest.fixture
def going_on(made: Path, tmp_path: Path) -> tuple[Path, Callable[[], Any]]:
    """The folder of a broken training, and what goes on with it."""
    [folder] = (made / "broken" / "small").iterdir()
    place = Path(shutil.copytree(folder / "distilled-0", tmp_path / "distilled-0"))
    recipe = load_recipe(folder / "recipe.yaml")
    parts = prepare(recipe)

    def go_on() -> Any:
        student = build_student(recipe, parts, 0)
        model = seeded_build(recipe.teacher.model, parts.train, 0, "teacher")
        load_weights(model, folder / "teacher-0.safetensors")
        distiller = lb.Distiller(student, wrap_teacher(recipe, model, parts), recipe.objective())
        return fit(distiller, parts.transfer, parts.held_out, training=recipe.training, seed=0, folder=place)

    return place, go_on


@pytest.mark.parametrize("seeds", cases(20, 300, 2))
@pytest.mark.parametrize("what", ["result", "state", "signed state", "signed tensors", "tensors"])
def test_no_checkpoint_ends_in_anything_but_a_result_or_one_line(going_on, what, seeds):
    place, go_on = going_on
    if what == "result":
        shutil.copytree(place, place.parent / "ended")
        go_on()
    kept_whole = Path(shutil.copytree(place, place.parent / "kept"))
    for seed in seeds:
        shutil.rmtree(place)
        shutil.copytree(kept_whole, place)
        draw = random.Random(f"{what} {seed}")
        if what == "result":
            path = place / "result.json"
            path.write_bytes(damaged_json(draw, path.read_bytes()))
        else:
            spoil(draw, checkpoints.newest(place / "checkpoints"), what)
        assert answered(go_on) is not None, seed


def spoil(draw: random.Random, checkpoint: Path, what: str) -> None:
    """Damage a checkpoint; signed: with the right checksums, as who means harm would write them."""
    tensors, state = checkpoint / "tensors.safetensors", checkpoint / "state.json"
    outer = json.loads(state.read_text())
    body = json.loads(outer["body"])
    if what == "state":
        state.write_bytes(damaged_json(draw, state.read_bytes()))
        return
    if what == "signed state":
        content = damaged_json(draw, json.dumps(body["state"]).encode())
        with contextlib.suppress(ValueError, RecursionError):
            body["state"] = json.loads(content)
    else:
        from safetensors.torch import load_file

        own = load_file(tensors)
        if draw.random() < 0.5:
            own = {name: tensor for name, tensor in own.items() if draw.random() < 0.9}
            for name in draw.sample(sorted(own), min(2, len(own))):
                own[name] = draw.choice([torch.zeros(0), own[name].reshape(-1), own[name].long(), torch.zeros(3, 3, 3)])
            save_file({name: tensor.contiguous() for name, tensor in own.items()}, tensors)
        else:
            tensors.write_bytes(safetensors_bytes(draw, own))
        if what == "signed tensors":
            body["tensors_sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
    text = json.dumps(body)
    state.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}))


def test_the_files_that_the_damage_starts_from_are_good(run, going_on):
    for how in ("read", "evaluate", "compare", "report"):
        assert not isinstance(answered(lambda how=how: judged(run, how)), str)
    assert kept(run) is not None
    assert going_on[1]().epoch
