"""Which tests run by default, which are thorough and which are slow."""

import runpy
from pathlib import Path

import pytest

RULE = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["pytest_collection_modifyitems"]


class Case:
    """What the rule reads and changes of a test that was collected."""

    def __init__(self, nodeid, *marks):
        self.nodeid, self.own_markers = nodeid, [mark.mark for mark in marks]

    def get_closest_marker(self, name):
        return next((mark for mark in self.own_markers if mark.name == name), None)

    def add_marker(self, name):
        self.own_markers.append(getattr(pytest.mark, name).mark)

    def names(self):
        return {mark.name for mark in self.own_markers} & {"slow", "thorough"}


def test_what_is_beyond_a_miniature_is_thorough_and_slow_cases_stay_slow_alone():
    mark = pytest.mark
    cases = [
        Case("a.py::plain"),
        Case("a.py::small[0]", mark.miniature(1)),
        Case("a.py::small[huge]", mark.slow, mark.miniature(1)),
        Case("a.py::small[1]", mark.miniature(1)),
        Case("a.py::whole[0]", mark.thorough),
        Case("a.py::whole[huge]", mark.slow, mark.thorough),
    ]
    RULE(items=cases)
    thorough = {"thorough", "slow"}
    assert [each.names() for each in cases] == [set(), set(), {"slow"}, thorough, thorough, {"slow"}]
