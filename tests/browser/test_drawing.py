"""The example page that runs a teacher and a student in the browser."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from limbeck import models
from limbeck.exporting import graph_of, write_onnx

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
PLACES = [
    EXAMPLE / "node_modules",
    *(Path(each) for each in os.environ.get("LIMBECK_NODE_MODULES", "").split(":") if each),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def page(tmp_path):
    modules = next((place for place in PLACES if (place / "onnxruntime-web").is_dir()), None)
    if modules is None:
        pytest.skip("needs onnxruntime-web: examples/browser/fetch.sh, or its node_modules in LIMBECK_NODE_MODULES")
    shutil.copy(EXAMPLE / "index.html", tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    for name, hidden in (("teacher", 32), ("student", 8)):
        torch.manual_seed(hidden)
        network = models.mlp((1, 8, 8), 10, hidden=(hidden,)).eval()
        (tmp_path / name).mkdir()
        write_onnx(graph_of(network, torch.rand(3, 1, 8, 8)), tmp_path / name, {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_a_digit_that_is_drawn_is_answered_by_both_networks(browser, page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    browser.driver.get(page)
    wait = WebDriverWait(browser.driver, 60)
    state = "return document.getElementById('state').textContent"
    wait.until(lambda _: browser.js(state) != "Loading…")
    assert browser.js(state) == "Ready"
    paper = browser.js("return document.getElementById('paper')")
    ActionChains(browser.driver).move_to_element_with_offset(paper, 0, -60).click_and_hold().move_by_offset(
        0, 120
    ).release().perform()
    cells = "return [...document.querySelectorAll('tbody td')].map((cell) => cell.textContent)"
    wait.until(lambda _: all(browser.js(cells)))
    drawn = torch.tensor(browser.js("return Array.from(digit())")).reshape(1, 1, 8, 8)
    assert drawn.amax() > 0.5
    found = browser.js(cells)
    for row, hidden in enumerate((32, 8)):
        torch.manual_seed(hidden)
        shares = models.mlp((1, 8, 8), 10, hidden=(hidden,)).eval()(drawn).detach().softmax(1)
        assert int(found[3 * row]) == int(shares.argmax())
        assert float(found[3 * row + 1]) == pytest.approx(float(shares.amax()), abs=2e-3)
