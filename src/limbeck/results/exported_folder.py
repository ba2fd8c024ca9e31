"""An exported folder, read: the network of any format, what it takes and answers, and whose it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import load_recipe
from limbeck.errors import RunError, one_line
from limbeck.experiment.signature import SIGNATURE, Signature, read_signature
from limbeck.exporting import CONFIG, ONNX, PROGRAM, WEIGHTS, Interface, read_library, read_onnx, read_program
from limbeck.models.layers import merged
from limbeck.records import unsealed
from limbeck.results.finished import filled, untrained
from limbeck.results.parity import answer_in_file
from limbeck.results.trust import require_trust, require_trusted_program
from limbeck.training.checkpoints import digest

__all__ = ["FORMAT", "FORMATS", "answer", "config_of", "is_exported", "network_of", "read_exported"]

FORMATS = {"safetensors": WEIGHTS, "transformers": WEIGHTS, "torch-export": PROGRAM, "onnx": ONNX}
"""The file of each format."""

FORMAT = 2


def is_exported(folder: Path) -> bool:
    """Return whether a folder is of an exported model, and no run."""
    is_run = (folder / "outcome.json").is_file()
    return (folder / CONFIG).is_file() and not is_run and any((folder / name).is_file() for name in FORMATS.values())


def read_exported(folder: Path, *, trust: bool = False) -> tuple[nn.Module, Signature, str, int]:
    """Read an exported model: the network in eval mode, what it takes and answers, its role and its seed.

    Raises RunError where a file is missing, damaged or of another export, or its code is not trusted.
    """
    config = config_of(folder)
    try:
        to, role, seed = str(config["to"]), str(config["role"]), int(config["seed"])
        files = {str(name): str(sha256) for name, sha256 in dict(config["files"]).items()}
        if to not in FORMATS:
            raise ValueError(f"to: {to}")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    for name, sha256 in files.items():
        if not (folder / name).is_file() or digest(folder / name) != sha256:
            raise RunError(f"'{folder / name}' is missing or was changed; export the model again")
    if not (folder / SIGNATURE).is_file():
        raise RunError(
            f"'{folder}': found no {SIGNATURE}, for the model was exported with examples and not with a SampleSet; "
            f"expected one to read raw inputs. Use {FORMATS[to]} by itself, or export the model with a SampleSet"
        )
    signature = read_signature(folder)
    if to != "safetensors":
        if to == "torch-export" and not trust:
            require_trusted_program(folder)
        return network_of(folder, config).eval(), signature, role, seed
    recipe = load_recipe(folder / "recipe.yaml")
    if not trust:
        require_trust(recipe, folder)
    model = filled(merged(untrained(recipe, signature, role, seed)), folder / WEIGHTS)
    return model.eval(), signature, role, seed


def network_of(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """Return the network of a folder that can be used without the code that made it."""
    if config["to"] == "transformers":
        return read_library(folder, config)
    try:
        interface = Interface.of(config["graph"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return read_onnx(folder, interface) if config["to"] == "onnx" else read_program(folder, interface)


def config_of(folder: Path) -> dict[str, Any]:
    """Return the content of limbeck.json; RunError where it is damaged or of another version."""
    try:
        config = unsealed(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']}, expected {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, error) from None
    return config


def _damaged(folder: Path, error: Exception) -> RunError:
    return RunError(f"'{folder / CONFIG}' is damaged ({one_line(error)}); export the model again")


def answer(folder: str, given: str, answered: str) -> None:
    """Answer what another process wrote, with the model of a folder."""
    place = Path(folder)

    def network() -> nn.Module:
        config = config_of(place)
        if config["to"] == "safetensors":
            return read_exported(place, trust=True)[0]
        return network_of(place, config).eval()

    answer_in_file(network, Path(given), Path(answered))
