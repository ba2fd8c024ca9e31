"""Runs to report on, made once, and a real headless Chromium that looks at their pages."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from limbeck.cli import app
from limbeck.config import Recipe
from limbeck.diagnosis import diagnose
from limbeck.diagnosis.recipes import subject_of_run
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.report import build, build_diagnosed
from limbeck.results.diagnoses import keep
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.training import Training

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Browser:
    """Chromium, driven through chromedriver."""

    driver: Any

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Show a page at a width, in the light or the dark scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(page.as_uri())

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[dict[str, Any]]:
        """Return what the console said since it was last asked."""
        return self.driver.get_log("browser")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install limbeck[test]")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_script_timeout(180)  # of axe, on a machine that is busy
    yield Browser(started)
    started.quit()


def finished(root: Path, name: str, data: dict[str, Any], **more: Any) -> Path:
    """Run a small recipe to its end and return its folder."""
    keys = {
        "name": name,
        "data": data,
        "teacher": {"model": {"kind": "mlp", "hidden": [48]}, "training": {"epochs": 6, "learning_rate": 0.1}},
        "student": {"model": {"kind": "mlp", "hidden": [6]}},
        "method": {"name": "kd", "temperature": 4},
        "training": {"epochs": 4, "learning_rate": 0.1},
        **more,
    }
    recipe = Recipe.parse(keys, root)
    folder = RunFolder.create(root / "runs", name, recipe.to_yaml(), ["limbeck", "distill", f"{name}.yaml"])
    keep_outcome(folder, distill(recipe, folder, cache=root / "cache"))
    return folder.path


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finished(tmp_path_factory.mktemp("digits"), "digits", {"kind": "digits"}, seeds=[0, 1], summary="two seeds")
    subject = replace(subject_of_run(FinishedRun.read(run)), training=Training(epochs=1))
    keep(diagnose(subject, seeds=(0, 1), search=False), run)
    return run


@pytest.fixture(scope="session")
def diagnosed(digits: Path) -> Path:
    """Return the page of a diagnosis alone."""
    return build_diagnosed(digits, files=False)


@pytest.fixture(scope="session")
def page(digits: Path) -> Path:
    return build([digits], files=False)


@pytest.fixture(scope="session")
def compared(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a comparison of two runs that differ in one key."""
    root = tmp_path_factory.mktemp("compared")
    method = {"name": "kd", "temperature": 8}
    hotter = finished(root, "digits", {"kind": "digits"}, seeds=[0, 1], summary="two seeds", method=method)
    app(["compare", str(digits), str(hotter), "--html", str(root / "compared.html")], standalone_mode=False)
    return root / "compared.html"


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run whose examples have several labels each."""
    import numpy as np

    root = tmp_path_factory.mktemp("labels")
    inputs = np.random.default_rng(0).random((200, 1, 6, 6)).astype("float32")
    marks = inputs.reshape(200, 3, 12).mean(2) > 0.5
    np.savez(root / "marks.npz", inputs=inputs, labels=marks, class_names=np.array(["top", "middle", "bottom"]))
    data = {"kind": "npz", "path": "marks.npz", "task": "multilabel"}
    return build([finished(root, "labels", data, seeds=[0])], files=False)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run whose examples have a label for each place, and whose method compares layers."""
    import numpy as np

    root = tmp_path_factory.mktemp("places")
    inputs = np.random.default_rng(0).random((100, 1, 6, 6)).astype("float32")
    np.savez(root / "dots.npz", inputs=inputs, labels=(inputs[:, 0] > 0.5).astype("int64") + (inputs[:, 0] > 0.8))
    network = {"model": {"kind": "fcn", "channels": [4]}}
    data = {"kind": "npz", "path": "dots.npz", "task": "dense"}
    teacher = {**network, "training": {"epochs": 3, "learning_rate": 0.1}}
    method = [{"name": "kd"}, {"name": "attention_transfer", "layers": "stem", "hard_weight": 0}]
    keys = {"teacher": teacher, "student": network, "method": method, "seeds": [0]}
    return build([finished(root, "places", data, **keys)], files=False)


@pytest.fixture(scope="session")
def pair(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of two runs, of which the second has inputs that are no pictures and one seed."""
    import numpy as np

    root = tmp_path_factory.mktemp("pair")
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(300, 5)).astype("float32")
    np.savez(root / "rows.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype("int64") + (inputs[:, 1] > 1))
    rows = finished(root, "rows", {"kind": "npz", "path": "rows.npz"}, seeds=[0])
    return build([digits, rows], root / "pair.html", files=False)
