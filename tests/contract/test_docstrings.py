"""Every public name says in Google sections what it takes, gives and comes from."""

import dataclasses
import importlib
import inspect
import re
from typing import ClassVar, get_origin

from limbeck import methods, targets

ROOMS = ("losses", "targets", "methods", "schedules", "terms", "tasks", "teachers")
ROOMS += ("data", "models", "evaluation", "generation", "projections", "tokenizers", "training", "compress", "drafts")
HEADINGS = ("Args", "Attributes", "Returns", "Raises", "Example", "Reference")
OF_NO_PAPER = {"reduce", "cross_entropy", "squared_error", "kd_weights", "Dense", "label_positions"}
OF_NO_PAPER |= {"Target", "Card", "names", "builder", "card", "kinds"}
"""Losses, targets and methods that are definitions or helpers, and no paper's."""


def public():
    """Return every public class and function once, by the shortest address."""
    found = {}
    for room in ("limbeck", *(f"limbeck.{room}" for room in ROOMS)):
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{room}.{name}", value))
    return dict(found.values())


PUBLIC = public()


def sections(value):
    """Return the text under each heading of a docstring; that before the first heading under ""."""
    found, heading = {"": []}, ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if line.removesuffix(":") in HEADINGS and line.endswith(":"):
            heading = line.removesuffix(":")
            found[heading] = []
        else:
            found[heading].append(line)
    return {heading: "\n".join(lines).strip("\n") for heading, lines in found.items()}


def described(text):
    """Return the names that a section describes: those that begin its lines, one level in."""
    return set(re.findall(r"^    \*{0,2}(\w+): \S", text, re.MULTILINE))


def takes(value):
    """Return what a function or class takes that it must describe itself; a subclass leaves the rest to its base."""
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            own = inspect.get_annotations(value)
            return {name for name, kind in own.items() if not name.startswith("_") and not _shared(kind)}
        if "__init__" not in vars(value) or getattr(value, "_is_protocol", False):
            return set()
        value = vars(value)["__init__"]
    return set(inspect.signature(inspect.unwrap(value)).parameters) - {"self", "args", "kwargs"}


def _shared(kind):
    return "ClassVar" in kind if isinstance(kind, str) else get_origin(kind) is ClassVar or kind is ClassVar


def test_a_public_name_describes_all_that_it_takes_and_nothing_else():
    wrong = {}
    for name, value in PUBLIC.items():
        found, taken = sections(value), takes(value)
        arguments, attributes = described(found.get("Args", "")), described(found.get("Attributes", ""))
        wrong[name] = sorted((taken - arguments - attributes) | (arguments - taken))
    assert {name: each for name, each in wrong.items() if each} == {}


def test_a_public_name_begins_with_a_sentence():
    first = {name: sections(value)[""].partition("\n")[0] for name, value in PUBLIC.items()}
    assert [name for name, line in first.items() if not line.endswith((".", ":"))] == []


def test_a_public_function_says_what_it_returns():
    functions = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
    giving = {name for name, value in functions.items() if inspect.signature(value).return_annotation is not None}
    assert [name for name in sorted(giving) if not sections(PUBLIC[name]).get("Returns")] == []


def test_a_public_name_has_an_example():
    of_a_run = {
        "limbeck.export",
        "limbeck.load",
        "limbeck.TrainedModel",
    }  # shown in test_own_export.py and test_load.py
    examples = {name: sections(value).get("Example", "") for name, value in PUBLIC.items()}
    assert {name for name, example in examples.items() if ">>> " not in example} == of_a_run


def test_a_loss_target_or_method_names_its_paper():
    wrong = []
    for name, value in PUBLIC.items():
        room, short = name.rpartition(".")[::2]
        if room.removeprefix("limbeck.") not in ("losses", "targets", "methods") or short in OF_NO_PAPER:
            continue
        reference = sections(value).get("Reference", "")
        card = None
        if short in methods.names() and room == "limbeck.methods":
            card = methods.card(short)
        elif value in targets.kinds().values():
            card = targets.card(value.__module__.rpartition(".")[2])
        if not reference or (card and str(card.year) not in reference):
            wrong.append(name)
    assert wrong == []
