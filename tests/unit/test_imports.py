"""What `import limbeck` loads: torch when a name is first used, and nothing else that is heavy."""

import subprocess
import sys

import pytest

EVERYTHING = "[getattr(limbeck, name) for name in limbeck.__all__]"
HEAVY = {
    "accelerate", "http.server", "jinja2", "matplotlib", "optuna", "pandas", "PIL", "pydantic", "rich",
    "scipy", "sklearn", "torchvision", "transformers", "typer", "yaml",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_the_name_alone_loads_nothing_but_itself():
    assert {name for name in loaded_by("import limbeck") if name.startswith(("limbeck", "torch"))} == {"limbeck"}


@pytest.mark.parametrize("statement", ["import limbeck; " + EVERYTHING, "import limbeck.training, limbeck.data"])
def test_all_names_load_torch_and_nothing_heavy_that_torch_does_not(statement):
    loaded = loaded_by(statement)
    assert "torch" in loaded
    assert "limbeck.training.loop" in loaded
    assert (loaded - loaded_by("import torch")) & HEAVY == set()
