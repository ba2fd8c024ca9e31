"""Whether a change of the code changes a result: the weights and figures of small runs beside recorded ones.

    LIMBECK_DATA=DIR python benchmarks/house_digests.py --json benchmarks/results/house_digests.json [--only NAME ...]
    LIMBECK_DATA=DIR python benchmarks/house_digests.py --check benchmarks/results/house_digests.json [--only NAME ...]

A unit is a packaged recipe, run at seed 0 by `limbeck distill`, or one row of a paper's table, run at seed 0 and the
reduced budget by `limbeck reproduce`.  Only the command line is used, on one thread, with a cache of the unit's own, so
that the same script runs before and after a move of the code.

--json records the units, or only those that are named, and leaves the others in the file as they are. --check runs
those that are recorded again and prints for each "same" or what differs; the exit status is 1 if anything does.
Weights are compared as tensors (names, types, shapes, bytes), not as files. A weights file with the same tensors in
another place, a new file and a new figure are printed as notes: they change no result. Weights are the same bit for
bit only on the machine that they were recorded on; the file says which.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPES: dict[str, list[str]] = {
    "digits-assistants": ["training.epochs=30", "teacher.training.epochs=10"],
    "digits-born-again": ["training.epochs=15", "teacher.training.epochs=15"],
    "digits-codistillation": ["training.epochs=15"],
    "digits-defensive": ["training.epochs=10"],
    "digits-deit": ["training.epochs=8", "teacher.training.epochs=10"],
    "digits-early-stopping": ["training.epochs=40", "teacher.training.epochs=20"],
    "digits-kd": [],
    "digits-mean-teacher": ["training.epochs=15"],
    "digits-mutual": ["training.epochs=15"],
    "digits-noisy-student": ["training.epochs=15", "teacher.training.epochs=30"],
    "digits-own-teacher": ["training.epochs=8"],
    "tabular-forest": ["training.epochs=20", "teacher.estimator.n_estimators=100"],
}
"""The settings of a recipe that are changed so that it is cheap, besides its seeds."""

TABLES = {
    "beyer2022-patient": "short-independent",
    "bucila2006-munge": "breast-cancer-alone",
    "hinton2015-ensemble": "mnist-wide",
    "hinton2015-mnist": "distilled-30-T2.5",
    "hinton2015-specialists": "fashion-mnist-of-together",
    "muller2019": "mnist-alone",
    "stanton2021": "few-teacher",
    "tang2020-cifar100": "hard",
    "tang2020-synthetic": "few-tau-0.3-student",
    "targets": "fashion-mnist-hard",
    "wang2022-subset": "mnist-labels",
}
"""The row of each table."""

_ROOT = Path(__file__).resolve().parent.parent
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Unit = dict[str, Any]
"""weights: digests by path in the run folder; cache: digests of what is kept elsewhere; figures: numbers by name;
seconds: of the processor; commit: that it was recorded at."""


class RunFailedError(Exception):
    """A run of the command line ended with an error."""


def tensors_digest(path: Path) -> str:
    """Return the SHA-256 of a safetensors file's tensors, in the order of their names, without the metadata."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    digest = hashlib.sha256()
    for name, entry in sorted(header.items()):
        first, last = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(content[start + first : start + last])
    return digest.hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every weights file below a folder by its path in it."""
    return {str(path.relative_to(folder)): tensors_digest(path) for path in sorted(folder.rglob("*.safetensors"))}


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON value with the path that leads to it."""
    if isinstance(content, (int, float)):
        yield path, content
    elif isinstance(content, (dict, list)):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from numbers(value, f"{path}/{key}" if path else str(key))


def limbeck(root: Path, *arguments: str) -> str:
    """Run the command line in a folder, with its cache there and on one thread, and return what it prints."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), **dict.fromkeys(_THREADS, "1")}
    if "LIMBECK_DATA" in os.environ:
        environment["LIMBECK_DATA"] = str(Path(os.environ["LIMBECK_DATA"]).resolve())
    command = [sys.executable, "-m", "limbeck", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailedError(f"limbeck {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def run(name: str) -> Unit:
    """Run a unit in a folder of its own and return its digests and figures."""
    with tempfile.TemporaryDirectory() as made:
        root, weights = Path(made), {}
        if name in RECIPES:
            command = ["distill", name, "seeds=[0]", *RECIPES[name]]
        else:
            command = ["reproduce", name, "--only", TABLES[name], "--seed", "0"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if name in RECIPES:
            limbeck(root, *command, "--runs", "runs", "--no-report", "--quiet")
            folder = next((root / "runs").rglob("outcome.json")).parent
            weights, found = digests(folder), json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        else:
            printed = json.loads(limbeck(root, *command, "--quiet", "--json"))
            found = printed["rows"][TABLES[name]]["reduced"]["seeds"]["0"]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cache = sorted(set(digests(root / "cache").values()))
    return {
        "command": f"limbeck {' '.join(command)}",
        "seconds": round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 1),
        "weights": weights,
        "cache": cache,
        "figures": dict(numbers(found)),
    }


def differences(recorded: Unit, found: Unit, tolerance: float) -> tuple[list[str], list[str]]:
    """Return what differs from the recorded unit, and what is only noted."""
    wrong, notes = [], []
    places = {digest: f"the cache ({digest[:12]})" for digest in found["cache"]}
    places |= {digest: path for path, digest in found["weights"].items()}
    for path, digest in recorded["weights"].items():
        if digest not in places:
            wrong.append(f"weights {path}: recorded {digest[:12]}, found {found['weights'].get(path, 'none')[:12]}")
        elif found["weights"].get(path) != digest:
            notes.append(f"weights {path}: the same tensors are in {places[digest]}")
    wrong += [f"weights in the cache: {each[:12]} is missing" for each in recorded["cache"] if each not in places]
    known = {*recorded["weights"].values(), *recorded["cache"]}
    new = {digest: place for digest, place in places.items() if digest not in known}
    notes += [f"new weights: {place}" for place in new.values() if place not in recorded["weights"]]
    for key, old in recorded["figures"].items():
        now = found["figures"].get(key)
        if now is None:
            wrong.append(f"figure {key}: recorded {old!r}, found none")
        elif not abs(now - old) <= tolerance * max(1.0, abs(old)):
            wrong.append(f"figure {key}: recorded {old!r}, found {now!r}, difference {now - old:g}")
    notes += [f"new figure: {key}" for key in found["figures"] if key not in recorded["figures"]]
    return wrong, notes


def here() -> dict[str, str]:
    """Return what decides the last bits of a result: the versions and the processor."""
    import torch

    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return {"commit": commit, "torch": torch.__version__, "python": platform.python_version(), "processor": processor}


def record(path: Path, names: list[str]) -> None:
    """Run the units and put them into a file, each as soon as it has ended."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    units = content.get("units", {})
    environment = here()
    commit = environment.pop("commit")
    for name in names:
        units[name] = run(name) | {"commit": commit}
        print(f"{name}: {units[name]['seconds']} s", flush=True)
        content = {"environment": environment, "units": units}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check(path: Path, names: list[str], tolerance: float) -> bool:
    """Run the units again, print what differs from those of a file, and return whether nothing does."""
    content = json.loads(path.read_text(encoding="utf-8"))
    now = here()
    for key, value in content["environment"].items():
        if now[key] != value:
            print(f"{key}: recorded with {value}, found {now[key]}; the last bits of weights may differ")
    for name in names:
        if name not in content["units"]:
            sys.exit(f"{name}: '{path}' has no such unit; record it with --json")
    same = True
    for name in names or content["units"]:
        try:
            found = run(name)
        except RunFailedError as error:
            print(f"{name}: FAILED\n  {error}", flush=True)
            same = False
            continue
        wrong, notes = differences(content["units"][name], found, tolerance)
        title = f"{name}: {'DIFFERS' if wrong else 'same'} ({found['seconds']} s)"
        print(title, *wrong, *notes, sep="\n  ", flush=True)
        same = same and not wrong
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--json", type=Path, metavar="FILE", help="record the units in this file")
    what.add_argument("--check", type=Path, metavar="FILE", help="compare the units with those of this file")
    parser.add_argument("--only", nargs="+", choices=[*RECIPES, *TABLES], default=[], metavar="NAME")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="of figures, times their size where that is > 1")
    given = parser.parse_args()
    if given.json:
        record(given.json, given.only or [*RECIPES, *TABLES])
    elif not check(given.check, given.only, given.tolerance):
        sys.exit(1)


if __name__ == "__main__":
    main()
