"""How often a run enters each module of the recipe's rooms, from the recipe's file to the first loss of its student.

The rooms are config, experiment, schemes and training.  An entry is a call from one of their modules into another one.
The trainings of the teacher and of the student alone, which end before, do not count.  A walk that enters one module
more than fifteen times hands something over too often: look there for a layer to take out.

    python benchmarks/walk.py [--most 15] [--callers MODULE]
"""

import argparse
import inspect
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOMS = ("config", "experiment", "schemes", "training")
RECIPE = """
name: walk
data: {kind: digits}
teacher: {model: {kind: mlp, hidden: [8]}, training: {epochs: 1, batch_size: 2048}}
student: {model: {kind: mlp, hidden: [4]}}
method: {name: kd}
training: {epochs: 1, batch_size: 2048}
"""


class _Arrived(Exception):
    """The student's first loss is there."""


def walk() -> Counter[tuple[str, str, str]]:
    """Return how often each function is entered, by (module, caller's module, function)."""
    from limbeck import cli  # noqa: F401 - what it imports is not of the walk
    from limbeck.config import load_recipe
    from limbeck.distiller import Distiller
    from limbeck.experiment.run import distill
    from limbeck.runs import RunFolder

    called: Counter[tuple[str, str, str]] = Counter()
    before: list[Counter[tuple[str, str, str]]] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        into, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        source = "" if frame.f_back is None else frame.f_back.f_globals.get("__name__", "")
        if (into, name) == ("limbeck.training.loop", "fit"):
            if event == "call":
                before.append(called.copy())
            elif event == "return":
                called.clear()
                called.update(before.pop())
        elif event == "call" and into != source and _in_rooms(into) and _in_rooms(source) and "<module>" not in name:
            called[into, source, name] += 1

    forward = Distiller.forward

    def arrive(self: Distiller, *given: Any, **named: Any) -> Any:
        loss = forward(self, *given, **named)
        if self.teacher is not None and _is_training(inspect.currentframe()):
            raise _Arrived
        return loss

    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        path = Path(place, "recipe.yaml")
        path.write_text(RECIPE)
        Distiller.forward = arrive  # type: ignore[method-assign]
        sys.setprofile(profile)
        try:
            recipe = load_recipe(path)
            distill(recipe, RunFolder.create(Path(place, "runs"), recipe.name, recipe.to_yaml(), []))
        except _Arrived:
            pass
        finally:
            sys.setprofile(None)
            Distiller.forward = forward  # type: ignore[method-assign]
    return called


def _in_rooms(module: str) -> bool:
    own, _, rest = module.partition(".")
    return own == "limbeck" and rest.partition(".")[0] in ROOMS


def _is_training(frame: FrameType | None) -> bool:
    """Whether the loop is among the callers of a frame; a rehearsal computes a loss as well."""
    while frame is not None and frame.f_globals.get("__name__") != "limbeck.training.loop":
        frame = frame.f_back
    return frame is not None


def main() -> None:
    """Print the entries, most first; exit 1 where a module has too many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=15, help="entries that a module may have")
    parser.add_argument("--callers", help="a module, whose callers are printed")
    given = parser.parse_args()
    called = walk()
    entries: Counter[str] = Counter()
    for (module, _, _), count in called.items():
        entries[module] += count
    for module, count in entries.most_common():
        print(f"{count:4d}  {module}")
    for (module, source, function), count in called.most_common():
        if module == given.callers:
            print(f"{count:4d}  {source} -> {function}")
    if max(entries.values()) > given.most:
        sys.exit(1)


if __name__ == "__main__":
    main()
