"""What `import limbeck` loads: torch when a name is first used, and nothing else that is heavy."""

import subprocess
import sys

EVERYTHING = "[getattr(limbeck, name) for name in limbeck.__all__]"
HEAVY = {
    "accelerate", "http.server", "jinja2", "matplotlib", "optuna", "pandas", "PIL", "pydantic", "rich",
    "scipy", "sklearn", "torchvision", "transformers", "typer", "yaml",
}  # fmt: skip


def loaded_by(*statements: str) -> list[set[str]]:
    """Return what a fresh process has loaded after each of some statements."""
    script = "import sys; " + "; ".join(f"{statement}; print(*sys.modules)" for statement in statements)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in answer.stdout.splitlines()]


def test_the_name_alone_loads_nothing_but_itself():
    (loaded,) = loaded_by("import limbeck")
    assert {name for name in loaded if name.startswith(("limbeck", "torch"))} == {"limbeck"}


def test_all_names_load_torch_and_nothing_heavy_that_torch_does_not():
    """One process imports torch and then everything: what is heavy in no step is heavy in none."""
    by_torch, everything = loaded_by(
        "import torch", f"import limbeck; {EVERYTHING}; import limbeck.training, limbeck.data"
    )
    assert "limbeck" not in by_torch
    assert "limbeck.training.loop" in everything
    assert (everything - by_torch) & HEAVY == set()
