"""A trained model as a folder for others, read back in another process before it counts as written."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import __version__, checks
from limbeck.data import Description, SampleSet
from limbeck.data.foreign import samples_of
from limbeck.data.licences import licences_of
from limbeck.data.sources import Source
from limbeck.errors import ExportError, InputError, ModelError, RunError, one_line, one_of
from limbeck.evaluation import Timing, evaluate, figures_of, file_bytes
from limbeck.experiment.signature import SIGNATURE, Signature, save_signature
from limbeck.exporting import (
    CONFIG,
    WEIGHTS,
    Interface,
    Normalisation,
    check_onnx,
    graph_inputs,
    graph_of,
    opsets,
    quantize_file,
    stored,
    write_folder,
    write_library,
    write_onnx,
    write_program,
)
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.records import plain_values
from limbeck.results.asked import Named, Size, batches_of, handed, lengths_of, sizes_of
from limbeck.results.examples import Examples
from limbeck.results.exported_folder import FORMAT, FORMATS, config_of, network_of
from limbeck.results.finished import FinishedRun
from limbeck.results.parity import (
    Exported,
    Limits,
    Parity,
    Quantized,
    prove,
    timing_of,
)
from limbeck.runs import environment
from limbeck.tasks import TOKENS
from limbeck.teachers.answers import LookedUpAnswers

__all__ = [
    "Examples",
    "Exported",
    "Options",
    "export_model",
    "export_run",
]

_COPIED = ("manifest.json", "recipe.yaml", SIGNATURE, "tokenizer/tokenizer.json")
_HALF, _ROUGH = 1e-3, 1e-2
"""What weights of 16 bits may change: the mean KL in nats, and numbers by a share of their spread."""
_CALIBRATED, _CALIBRATED_TOGETHER = 128, 8  # training samples that scale the inputs of 8-bit convolutions
_COUNTED = 2000  # validation samples on which the figures of an int8 file are measured


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    to: the format.  tolerance: the largest difference of an answer, as a share of the logits' spread.  normalisation:
    whether the graph scales and normalises raw inputs.  quantize: "int8" for the 8-bit weights of ONNX Runtime.
    agreement: the least share of predictions that these leave as they were.  fixed_sizes: whether a graph takes images
    of the data's size alone, also where the network takes others.
    """

    to: str = "safetensors"
    tolerance: float = 1e-4
    normalisation: bool = False
    quantize: str | None = None
    agreement: float = 0.99
    fixed_sizes: bool = False

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise InputError(f"--to: found '{self.to}'; {one_of(self.to, FORMATS)}")
        checks.non_negative("tolerance", self.tolerance)
        checks.unit_interval("agreement", self.agreement)
        if self.quantize not in (None, "int8"):
            raise InputError(f"--quantize: found '{self.quantize}'; expected int8")
        if self.quantize and self.to != "onnx":
            raise InputError(f"--quantize: found int8 with --to {self.to}; expected --to onnx, whose runtime has it")
        if self.normalisation and FORMATS[self.to] == WEIGHTS:
            raise InputError(f"--with: found normalisation with --to {self.to}; expected a graph: torch-export or onnx")
        if self.fixed_sizes and FORMATS[self.to] == WEIGHTS:
            raise InputError(f"--fixed-sizes: found it with --to {self.to}; expected a graph: torch-export or onnx")
        if self.to == "onnx":
            check_onnx()


def export_run(
    run: FinishedRun, out: Path, *, role: str = "distilled", seed: int | None = None, options: Options = Options()
) -> Exported:
    """Write a trained model of a run as a folder, and what it takes to use it.

    out: a new folder.  role, seed: of the model.  The exported model is read in another process and asked for
    validation samples.  Raises InputError for a role or seed that the run does not have, RunError where the folder
    exists, ExportError where the model cannot be written in this format or its answers differ; then nothing is left.
    """
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

    def copy(folder: Path) -> None:
        for name in _COPIED:
            if (run.folder / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(run.folder / name, folder / name)

    config = {
        "role": role,
        "seed": seed,
        "run": run.folder.name,
        "recipe": run.recipe.name,
        "test": {name: value for name, value in asdict(_figures(run, role, seed)).items() if name != "more"},
        "data": dict(run.outcome.data),
        "licences": _licences(run.recipe.keys),
    }
    samples = run.parts.held_out or run.parts.train
    before = run.weights(role, seed).stat().st_size
    return _exported(
        model, out, run.signature, samples, options, config=config, copy=copy, before=before, training=run.parts.train
    )


def _licences(keys: Mapping[str, Any]) -> list[str]:
    """Return the lines on licences that a recipe states, or those of the data that it names."""
    stated = keys["licences"]
    return licences_of(keys["data"]["kind"], keys["data"]) if stated is None else list(stated)


def _figures(run: FinishedRun, role: str, seed: int) -> Any:
    return next(each.metrics[role] for each in run.outcome.seeds if each.seed == seed)


def export_model(model: nn.Module, data: Any, out: Path, options: Options, calibration: Any = None) -> Exported:
    """Write a network of a user's own; see `limbeck.export`, which checks what it is handed."""
    samples = _samples("samples", data)
    training = None if calibration is None else _samples("calibration", calibration)
    signature = None
    if isinstance(samples, SampleSet):
        described = Description.of(samples)
        if not described.classes:
            with evaluating(model), torch.no_grad():
                first = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0)
                logits = run_model(model, first.inputs, task=samples.task).logits
            described = replace(described, classes=logits.shape[-1])
        signature = Signature(described, None, described.tokenizer.fingerprint if described.tokenizer else "")

    def write_signature(folder: Path) -> None:
        if signature is not None:
            save_signature(folder, signature)

    config = {"role": "model", "seed": 0}
    before = file_bytes(model)
    return _exported(
        model,
        out,
        signature,
        samples,
        options,
        config=config,
        copy=write_signature,
        before=before,
        training=training,
    )


def _samples(name: str, data: Any) -> SampleSet | Examples:
    given = data if isinstance(data, Examples) else samples_of(name, data)
    return Examples.read(given) if isinstance(given, Source) else given


def _exported(
    model: nn.Module,
    out: Path,
    signature: Signature | None,
    samples: SampleSet | Examples,
    options: Options,
    *,
    config: Mapping[str, Any],
    copy: Callable[[Path], None],
    before: int,
    training: SampleSet | Examples | None,
) -> Exported:
    """Write a model's folder once another process answers with it as the model does.

    config: what limbeck.json says besides.  copy: writes further files into the folder.  training: samples that scale
    the inputs of 8-bit convolutions.  Sizes of images are free where the model takes others and the graph answers them
    alike.
    """
    batches = batches_of(model, samples)
    writing = _Writing(model, signature, samples, options, {**config}, copy, batches, before, training)
    images = batches[0].get("", torch.empty(0))
    if FORMATS[options.to] == WEIGHTS or images.dim() != 4:
        return writing.written(out, (), None)
    if options.fixed_sizes:
        return writing.written(out, (), "fixed, as asked")
    resized, why = sizes_of(model, batches), "the network takes no others"
    larger = [each for each in resized if each[0][0] >= images.shape[2] and each[0][1] >= images.shape[3]]
    for sizes, found in ((resized, "free"), (larger, "free, from those of the data on")):
        if sizes and (sizes is resized or len(sizes) < len(resized)):
            try:
                return writing.written(out, sizes, found)
            except _SizesError as error:
                why = one_line(error)
    return writing.written(out, (), f"fixed ({why})")


class _SizesError(ExportError):
    """A graph whose sizes of images are free was refused."""


@dataclass(frozen=True)
class _Writing:
    """What it takes to write a model's folder, see `_exported`.  before: the bytes of the file that it comes from."""

    model: nn.Module
    signature: Signature | None
    samples: SampleSet | Examples
    options: Options
    config: dict[str, Any]
    copy: Callable[[Path], None]
    batches: list[Named]
    before: int
    training: SampleSet | Examples | None

    def written(self, out: Path, resized: Sequence[tuple[Size, Named]], image_sizes: str | None) -> Exported:
        """Write the folder.  resized: images of other sizes, which the graph then takes too."""
        model, batches, options = self.model, self.batches, self.options
        count = min(len(self.samples), sum(len(next(iter(each.values()))) for each in batches))
        described, proofs = None if self.signature is None else self.signature.students, list[tuple[Parity, Timing]]()
        lengths = lengths_of(model, batches, _longest(self.samples, batches))

        def write(folder: Path) -> Mapping[str, Any]:
            self.copy(folder)
            made = _written(model, folder, batches, described, options, resized, self.config.get("licences", []))
            said: Mapping[str, Any] = plain_values({**_described(self.signature, options.to), **self.config, **made})
            return said

        def proof(limits: Limits, sizes: Sequence[tuple[Size, Named]] = ()) -> Callable[[Path], Mapping[str, Any]]:
            def check(folder: Path) -> Mapping[str, Any]:
                task = self.samples.task
                asked = prove(model, folder, batches, limits, task=task, samples=count, lengths=lengths, sizes=sizes)
                proofs.append(asked)
                found: Mapping[str, Any] = plain_values({"parity": asdict(asked[0]), "seconds": asked[1].seconds})
                return found

            return check

        first, quantized = proof(_limits(model, self.samples, options), resized), None

        def write_whole(folder: Path) -> None:
            try:
                write_folder(folder, write, check=first)
            except ExportError as error:
                raise _SizesError(str(error)) if resized else error from None

        if options.quantize is None:
            write_whole(out)
        else:
            with tempfile.TemporaryDirectory() as place:
                whole = Path(place) / "whole"
                write_whole(whole)
                size = _bytes(whole, options.to)

                def smaller(folder: Path) -> dict[str, Any]:
                    shutil.copytree(whole, folder, dirs_exist_ok=True)
                    (folder / CONFIG).unlink()
                    config = config_of(whole)
                    positions, inputs = _calibration(self.training, Interface.of(config["graph"]))
                    used = quantize_file(folder, inputs)
                    made = {"quantized": options.quantize, "calibration": positions if used else []}
                    return {**config, **made, "opset": opsets(folder)}

                write_folder(out, smaller, check=proof(Limits(agreement=options.agreement)))
            quantized = _quantized(model, out, self.samples, size, proofs[1][0])
        recurrent = config_of(out).get("graph", {}).get("states", 0) > 0
        timing, size = timing_of(model, batches[0], step=recurrent), _bytes(out, options.to)
        return Exported(out, options.to, size, self.before, proofs[0][0], timing, proofs[-1][1], quantized, image_sizes)


def _calibration(
    training: SampleSet | Examples | None, interface: Interface
) -> tuple[list[int], list[dict[str, torch.Tensor]]]:
    """Return the positions of some training samples, evenly spread, and the inputs of a graph that these are."""
    if training is None or interface.states:
        return [], []
    count = min(len(training), _CALIBRATED)
    positions = torch.arange(count) * len(training) // count
    batches = [training.batch(part, augment=None, seed=0, view=0) for part in positions.split(_CALIBRATED_TOGETHER)]
    return positions.tolist(), [graph_inputs(each.inputs, interface) for each in batches]


def _longest(samples: SampleSet | Examples, batches: Sequence[Named]) -> int:
    """Return the longest text, in tokens; 0 where samples are no texts."""
    if isinstance(samples, SampleSet) and samples.form:
        return samples.max_length or samples.input_shape[0]
    first = next((each for each in batches[0].values() if each.dim() > 1), None)
    return 0 if first is None else first.shape[1]


def _limits(model: nn.Module, samples: SampleSet | Examples, options: Options) -> Limits:
    """Return what the answers of a folder have to keep; a graph computes in float32 where weights have 16 bits."""
    half = any(each.dtype in (torch.float16, torch.bfloat16) for each in model.parameters())
    if not half or FORMATS[options.to] == WEIGHTS:
        return Limits(largest=options.tolerance)
    return Limits(divergence=_HALF) if samples.task.has_probabilities else Limits(largest=_ROUGH)


def _bytes(folder: Path, to: str) -> int:
    """Return the size of a folder's model, and of its weights where they lie beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{FORMATS[to]}*"))


def _described(signature: Signature | None, to: str) -> dict[str, Any]:
    """Return what limbeck.json says of a model's answers."""
    every = {"format": FORMAT, "to": to, "environment": environment()}
    if signature is None:
        return every
    described = signature.students
    return {
        **every,
        "task": described.task,
        "classes": list(described.class_names) if described.task != TOKENS.name else described.classes,
        "columns": described.classes,
        "tokenizer": signature.fingerprint or None,
        "normalisation": {"dtype": described.dtype, "mean": described.mean, "std": described.std},
    }


def _written(
    model: nn.Module,
    folder: Path,
    batches: Sequence[Named],
    described: Description | None,
    options: Options,
    resized: Sequence[tuple[Size, Named]],
    licences: list[str],
) -> dict[str, Any]:
    """Write a model in a format; return what limbeck.json says of it."""
    if options.to == "safetensors":
        (folder / WEIGHTS).write_bytes(stored(model))
        return {}
    if options.to == "transformers":
        names, tokenizer = ((), None) if described is None else (described.class_names, described.tokenizer)
        return write_library(model, folder, names, tokenizer)
    scale = None
    if options.normalisation:
        if described is None:
            raise InputError("--with: found normalisation without a SampleSet, which has the numbers; expected one")
        scale = Normalisation(described.dtype, described.mean, described.std)
        if described.columns is not None:
            raise InputError(
                "--with: found normalisation for a table, whose columns limbeck encodes (categories, scale); "
                "expected images or arrays. Leave it out"
            )
        if not scale.pixels and scale.mean is None:
            raise InputError("--with: found normalisation for inputs that are used as they are; leave it out")
    largest = max(batches, key=lambda batch: len(next(iter(batch.values()))))
    graph = graph_of(model, handed(largest), scale, _of_another_shape(largest, resized))
    written: dict[str, Any] = {"graph": graph.interface.as_dict()}
    if options.to == "torch-export":
        write_program(graph, folder)
    else:
        metadata: dict[str, Any] = {"limbeck": __version__, **({"licences": licences} if licences else {})}
        if described is not None:
            metadata |= {
                "task": described.task,
                "classes": described.class_names if described.task != TOKENS.name else described.classes,
                "tokenizer": described.tokenizer.fingerprint if described.tokenizer else "",
                "normalisation": asdict(Normalisation(described.dtype, described.mean, described.std)),
                "normalised": "inside" if scale is not None else "before",
            }
        written["graph"] = write_onnx(graph, folder, metadata).as_dict()
        written["opset"] = opsets(folder)
    return written


def _of_another_shape(batch: Named, resized: Sequence[tuple[Size, Named]]) -> torch.Tensor | None:
    """Return images of another size, if possible of another ratio of height to width, which tells the axes apart."""
    if not resized:
        return None
    height, width = batch[""].shape[2:]
    return max(resized, key=lambda each: each[0][0] * width != each[0][1] * height)[1][""]


def _quantized(model: nn.Module, folder: Path, samples: SampleSet | Examples, size: int, parity: Parity) -> Quantized:
    """Measure what 8-bit weights changed on validation samples."""
    name = figures_of(samples.task).errors
    few = samples.subset(torch.arange(min(len(samples), _COUNTED))) if isinstance(samples, SampleSet) else None
    if few is None or not few.labelled_count:
        return Quantized(size, parity, name, 0, None, None)
    before, after = (evaluate(each, few) for each in (model, network_of(folder, config_of(folder))))
    return Quantized(size, parity, name, before.examples, before.errors, after.errors)
