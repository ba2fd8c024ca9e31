"""Each defect of benchmarks/mutants.py can still be planted, and the tests that should notice it are there."""

from pathlib import Path

from mutants import NAMED, OWN

ROOT = Path(__file__).parents[2]


def test_each_planted_defect_finds_its_line_and_its_tests():
    lost = []
    for mutant in (*NAMED, *OWN):
        file = ROOT / "src" / "limbeck" / mutant.file
        times = file.read_text(encoding="utf-8").count(mutant.before) if file.is_file() else 0
        missing = [path for path in mutant.tests.split() if not (ROOT / path.partition("::")[0]).exists()]
        if times != 1 or missing:
            lost.append((mutant.name, mutant.file, times, missing))
    assert lost == []
