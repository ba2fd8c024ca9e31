"""A trained model of a run as a folder for others, read back in another process before it counts as written."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck import checks
from limbeck.config import load_recipe
from limbeck.data import SampleSet
from limbeck.errors import ExportError, InputError, ModelError, RunError, one_line, one_of
from limbeck.experiment.signature import SIGNATURE, Signature, read_signature
from limbeck.export import CONFIG, WEIGHTS, write_folder
from limbeck.models.layers import merged
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.records import plain_values, unsealed
from limbeck.results.finished import FinishedRun, filled, untrained
from limbeck.results.trust import require_trust
from limbeck.runs import environment
from limbeck.tasks import TOKENS, task_named
from limbeck.teachers.answers import LookedUpAnswers
from limbeck.training.checkpoints import digest

__all__ = ["Exported", "Parity", "export_run", "is_exported", "read_exported"]

_SAMPLES, _ONE_BY_ONE, _TOGETHER = 256, 32, 7
_MOST_BYTES = 2**26  # of answers that are compared
_COPIED = ("recipe.yaml", SIGNATURE, "tokenizer/tokenizer.json")
_FORMAT = 1


@dataclass(frozen=True)
class Parity:
    """How the exported model's answers differ from those of the model that was exported.

    samples: of the validation part, asked one by one and in batches of 7.
    largest: max|Δlogit| as a share of the logits' spread.  divergence: mean KL in nats; 0 where there are no classes.
    agreement: the share of the places whose prediction is the same.
    """

    samples: int
    largest: float
    divergence: float
    agreement: float


@dataclass(frozen=True)
class Exported:
    """What was exported: the folder, the bytes of its weights, those of the run's own file, and the parity."""

    folder: Path
    bytes: int
    before: int
    parity: Parity


def is_exported(folder: Path) -> bool:
    """Return whether a folder is of an exported model, and no run."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() and not (folder / "outcome.json").is_file()


def export_run(
    run: FinishedRun, out: Path, *, role: str = "distilled", seed: int | None = None, tolerance: float = 1e-4
) -> Exported:
    """Write a trained model of a run as a folder of safetensors, and what it takes to use it.

    out: a new folder.  role, seed: of the model.  tolerance: the largest difference of an answer that is accepted, as a
    share of the logits' spread; the exported model is read in another process and asked for validation samples.
    Raises InputError for a role or seed that the run does not have, RunError where the folder exists, ExportError where
    the answers differ; then nothing is left behind.
    """
    checks.non_negative("tolerance", tolerance)
    seed = run.seeds[0] if seed is None else seed
    singles = [each for each in run.roles if not run.composed(each)]
    if role not in singles:
        raise InputError(f"role: found '{role}'; {one_of(role, singles)}")
    if seed not in run.seeds:
        raise InputError(f"seed: found {seed}; expected one of the run's: {', '.join(map(str, run.seeds))}")
    if out.exists():
        raise RunError(f"--out: '{out}' exists; name another folder, or delete it")
    model = run.model(role, seed).eval()
    if any(isinstance(module, LookedUpAnswers) for module in model.modules()):
        raise ModelError(f"role: '{role}' of '{run.folder}' is no network, whose answers were made elsewhere")
    samples = run.parts.held_out or run.parts.train
    found: list[Parity] = []
    files = {name: (run.folder / name).read_bytes() for name in _COPIED if (run.folder / name).is_file()}
    write_folder(
        out,
        model,
        plain_values(_config(run, role, seed)),
        files=files,
        check=lambda folder: found.append(_parity(model, folder, samples, tolerance)),
    )
    return Exported(out, (out / WEIGHTS).stat().st_size, run.weights(role, seed).stat().st_size, found[0])


def read_exported(folder: Path, *, trust: bool = False) -> tuple[nn.Module, Signature, str, int]:
    """Read an exported model: the network in eval mode, what it takes and answers, its role and its seed.

    Raises RunError where a file is missing, damaged or of another export, or a factory is not trusted.
    """
    try:
        config = unsealed(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        role, seed, files = str(config["role"]), int(config["seed"]), dict(config["files"])
        if config["format"] != _FORMAT:
            raise ValueError(f"format {config['format']}, expected {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"'{folder / CONFIG}' is damaged ({one_line(error)}); export the model again") from None
    for name, sha256 in files.items():
        if not (folder / name).is_file() or digest(folder / name) != sha256:
            raise RunError(f"'{folder / name}' is missing or was changed; export the model again")
    recipe = load_recipe(folder / "recipe.yaml")
    if not trust:
        require_trust(recipe, folder)
    signature = read_signature(folder)
    model = filled(merged(untrained(recipe, signature, role, seed)), folder / WEIGHTS)
    return model.eval(), signature, role, seed


def _config(run: FinishedRun, role: str, seed: int) -> dict[str, Any]:
    """Return what config.json says of the model."""
    described = run.signature.students
    return {
        "format": _FORMAT,
        "role": role,
        "seed": seed,
        "run": run.folder.name,
        "recipe": run.recipe.name,
        "task": described.task,
        "classes": list(described.class_names) if described.task != TOKENS.name else described.classes,
        "tokenizer": getattr(run.signature, "fingerprint", "") or None,
        "test": {name: value for name, value in asdict(_figures(run, role, seed)).items() if name != "more"},
        "data": dict(run.outcome.data),
        "environment": environment(),
    }


def _figures(run: FinishedRun, role: str, seed: int) -> Any:
    return next(each.metrics[role] for each in run.outcome.seeds if each.seed == seed)


# -- parity ----------------------------------------------------------------------------------------------------------


def _parity(model: nn.Module, folder: Path, samples: SampleSet, tolerance: float) -> Parity:
    """Compare the answers of a model with those of its folder in a fresh process; ExportError where they differ."""
    batches = list(_batches(model, samples))
    with tempfile.TemporaryDirectory() as place:
        given, answered = Path(place) / "inputs.safetensors", Path(place) / "answers.safetensors"
        save_file(
            {f"{number}.{name}": tensor for number, inputs in enumerate(batches) for name, tensor in inputs.items()},
            given,
        )
        _ask(folder, given, answered)
        theirs = load_file(answered)
    with evaluating(model), torch.no_grad():
        pairs = [
            (run_model(model, _handed(inputs), task=samples.task).logits, theirs[str(number)])
            for number, inputs in enumerate(batches)
        ]
    count = sum(len(next(iter(inputs.values()))) for inputs in batches)
    found = _compared(pairs, count, classes=samples.task.has_probabilities)
    if not found.largest <= tolerance:
        raise ExportError(
            f"export: found answers that differ by {found.largest:.3g} of the logits' spread; expected {tolerance:.3g} "
            "at most. Nothing was written; state another limit with --tolerance"
        )
    return found


def _ask(folder: Path, given: Path, answered: Path) -> None:
    """Let another process answer inputs with the model of a folder; ExportError where it cannot."""
    script = "import sys; from limbeck.results.exported import _answer; _answer(*sys.argv[1:])"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder.resolve()), str(given), str(answered)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise ExportError(f"export: the exported model cannot be read back ({reason}); nothing was written")


def _batches(model: nn.Module, samples: SampleSet) -> Iterator[dict[str, Tensor]]:
    """Yield inputs of validation samples, some one by one and all in batches of 7, as tensors by name."""
    one = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0)
    with evaluating(model), torch.no_grad():
        logits = run_model(model, one.inputs, task=samples.task).logits
    most = max(_TOGETHER, _MOST_BYTES // max(1, logits.numel() * logits.element_size()))
    positions = torch.arange(min(len(samples), _SAMPLES, most))
    for part in (*positions[:_ONE_BY_ONE].split(1), *positions.split(_TOGETHER)):
        inputs = samples.batch(part, augment=None, seed=0, view=0).inputs
        named = inputs if isinstance(inputs, dict) else {"": inputs}
        yield {name: tensor.contiguous().clone() for name, tensor in named.items()}


def _handed(inputs: dict[str, Tensor]) -> Any:
    return inputs[""] if set(inputs) == {""} else inputs


def _compared(pairs: list[tuple[Tensor, Tensor]], count: int, *, classes: bool) -> Parity:
    """Return how answers differ."""
    ours = torch.cat([one.double().flatten(0, -2) for one, _ in pairs])
    theirs = torch.cat([other.double().flatten(0, -2) for _, other in pairs])
    if theirs.shape != ours.shape or not bool(torch.equal(ours.isfinite(), theirs.isfinite())):
        return Parity(count, float("inf"), float("inf"), 0.0)
    known = ours.isfinite()
    spread = float((ours[known].max() - ours[known].min()).clamp(min=1e-30))
    largest = float((ours[known] - theirs[known]).abs().max()) / spread
    if not classes:
        return Parity(count, largest, 0.0, float((ours - theirs).abs().amax(-1).le(1e-6 * spread).double().mean()))
    logs, others = ours.log_softmax(-1), theirs.log_softmax(-1)
    divergence = float(torch.where(logs.exp() > 0, logs.exp() * (logs - others), 0.0).sum(-1).mean())
    return Parity(count, largest, divergence, float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()))


def _answer(folder: str, given: str, answered: str) -> None:
    """Answer what another process wrote, with the model of a folder."""
    torch.set_num_threads(1)
    model, signature, _, _ = read_exported(Path(folder), trust=True)
    batches: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(given).items():
        number, _, key = name.partition(".")
        batches.setdefault(number, {})[key] = tensor
    task = task_named(signature.students.task)
    with torch.no_grad():
        answers = {
            number: run_model(model, _handed(inputs), task=task).logits.contiguous()
            for number, inputs in batches.items()
        }
    save_file(answers, answered)
