"""The site of the documentation: it builds without a warning, asks no other server, and is accessible in Chromium."""

import importlib.resources
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = (
    *("index", "start/index", "choose/index", "check-loss/index", "methods/index", "your-model/index"),
    *("speed/index", "api/schedules/index", "api/losses/index"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for library in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}: pip install limbeck[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.slow  # building it takes most of a minute; continuous integration runs it beside the build
def test_no_page_asks_another_server(site):
    loading = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(https?://[^" >]*)')
    asked = {page.name: loading.findall(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {name: each for name, each in asked.items() if each} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_axe_finds_nothing_serious(browser, site, scheme, width):
    pytest.importorskip("axe_core_python", reason="needs axe-core-python: pip install limbeck[test]")
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    for name in SHOWN if (scheme, width) == ("light", 1280) else SHOWN[:3]:
        browser.open(site / f"{name}.html", width=width, scheme=scheme)
        browser.js(axe)
        found = browser.driver.execute_async_script("axe.run(document).then(arguments[0])")
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        told = [f"{each['id']}: {len(each['nodes'])} × {each['nodes'][0]['html'][:150]}" for each in serious]
        assert told == [], name
        assert len(found["passes"]) > 20
