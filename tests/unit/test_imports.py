"""What `import limbeck` loads: torch when a name is first used, and nothing else that is heavy."""

import subprocess
import sys

import pytest

EVERYTHING = "[getattr(limbeck, name) for name in limbeck.__all__]"
HEAVY = {
    "accelerate", "http.server", "jinja2", "optuna", "pandas", "PIL", "pydantic", "rich",
    "onnxruntime", "scipy", "sklearn", "torch._dynamo", "torchvision", "transformers", "typer", "yaml",
}  # fmt: skip


def loaded_by(*statements: str) -> list[set[str]]:
    """Return what a fresh process has loaded after each of some statements."""
    script = "import sys; " + "; ".join(f"{statement}; print(*sys.modules)" for statement in statements)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in answer.stdout.splitlines()]


def test_the_name_alone_loads_nothing_but_itself():
    (loaded,) = loaded_by("import limbeck")
    assert {name for name in loaded if name.startswith(("limbeck", "torch"))} == {"limbeck"}


@pytest.mark.thorough
def test_all_names_load_torch_and_nothing_heavy_that_torch_does_not():
    """One process imports torch and then everything: what is heavy in no step is heavy in none."""
    by_torch, everything, recipes = loaded_by(
        "import torch",
        f"import limbeck; {EVERYTHING}; import limbeck.training, limbeck.data",
        "import limbeck.config",
    )
    assert "limbeck" not in by_torch
    assert "limbeck.training.loop" in everything
    assert (everything - by_torch) & HEAVY == set()
    assert (recipes - by_torch) & HEAVY == {"pydantic", "yaml"}


WITHOUT_POSIX = """
import importlib, pathlib, pkgutil, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del signal.SIGHUP
import limbeck
for found in pkgutil.walk_packages(limbeck.__path__, "limbeck."):
    if found.name != "limbeck.__main__":
        importlib.import_module(found.name)
import torch
samples = limbeck.data.TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4, classes=4)
distiller = limbeck.Distiller(torch.nn.Linear(3, 4), None, limbeck.methods.hard())
result = limbeck.fit(distiller, samples, epochs=1, batch_size=16, folder=sys.argv[1])
print(result.steps, sorted(path.name for path in pathlib.Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.thorough
def test_every_module_is_imported_and_a_folder_is_trained_in_without_what_windows_has_not(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    steps, *files = answer.stdout.split(" ", 1)
    assert (steps, "student.safetensors" in files[0]) == ("2", True)
