"""One version: what Python says, and what is written in the files beside it."""

import re
import tomllib
from pathlib import Path

import yaml

import limbeck

ROOT = Path(__file__).parents[2]


def test_the_package_its_metadata_the_citation_and_the_changelog_name_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\] - (\S+)$", changes, re.MULTILINE)
    assert newest is not None
    assert project["version"] == limbeck.__version__
    assert (cited["version"], str(cited["date-released"])) == newest.groups()
    assert newest[1] == limbeck.__version__
