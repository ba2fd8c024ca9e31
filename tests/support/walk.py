"""One test that walks through cases, where a test for each would only be many: `over` in place of `parametrize`."""

import contextlib
import functools
import inspect
import itertools
from pathlib import Path

import pytest
import torch


def over(names, cases, *, ids=None):
    """Call the decorated test with every case, and name all cases that fail in the error of the first.

    Every case begins with the same random numbers and, with `tmp_path`, in a folder of its own; behind each, what
    `monkeypatch` changed is put back and `capsys` is emptied.  A case that skips is passed over.
    """
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = list(cases)
    ids = list(ids) if ids is not None and not callable(ids) else ids
    assert cases, f"no cases of {names}"

    def label(number):
        case = cases[number]
        if isinstance(case, _PARAM) and case.id:
            return str(case.id)
        if isinstance(ids, list):
            return str(ids[number])
        return "-".join(" ".join(str((ids or repr)(value)).split())[:100] for value in _values(case, keys))

    def decorate(test):
        signature = inspect.signature(test)
        assert set(keys) <= set(signature.parameters), f"the test does not take {keys}"
        assert not {"caplog", "recwarn", "capfd", "request"} & set(signature.parameters), "these cannot be shared"

        @functools.wraps(test)
        def walk(**fixtures):
            failed = {}
            for number, case in enumerate(cases):
                given = dict(zip(keys, _values(case, keys), strict=True))
                try:
                    _once(test, fixtures, given, f"{keys[0]}{number}")
                except pytest.skip.Exception:
                    continue
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - raised below
                    failed[label(number)] = error
            for error in failed.values():
                error.add_note(f"{', '.join(keys)}: {len(failed)} of {len(cases)} cases fail: {'; '.join(failed)}")
                raise error

        del walk.__wrapped__
        left = [parameter for name, parameter in signature.parameters.items() if name not in keys]
        walk.__signature__ = signature.replace(parameters=left)
        return walk

    return decorate


def pairs(*axes):
    """Return rows of the product of the axes, so few that any two values of two axes meet in one at least."""
    axes = [list(axis) for axis in axes]
    rows = list(itertools.product(*(range(len(axis)) for axis in axes)))
    meetings = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing, chosen = set().union(*meetings.values()), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(meetings[row] & missing)))
        missing -= meetings[chosen[-1]]
    return [tuple(axis[place] for axis, place in zip(axes, row, strict=True)) for row in chosen]


_PARAM = type(pytest.param())


def _values(case, keys):
    if isinstance(case, _PARAM):
        assert not case.marks, "a case of a walk has no marks"
        case = case.values if len(keys) > 1 else case.values[0]
    return tuple(case) if len(keys) > 1 else (case,)


def _once(test, fixtures, case, folder):
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        if "tmp_path" in fixtures:
            shared = fixtures["tmp_path"]
            fixtures = fixtures | {"tmp_path": shared / folder}
            fixtures["tmp_path"].mkdir()
            if Path.cwd() == shared:
                stack.enter_context(contextlib.chdir(fixtures["tmp_path"]))
        if "monkeypatch" in fixtures:
            fixtures = fixtures | {"monkeypatch": stack.enter_context(fixtures["monkeypatch"].context())}
        if "capsys" in fixtures:
            fixtures["capsys"].readouterr()
        test(**fixtures, **case)
