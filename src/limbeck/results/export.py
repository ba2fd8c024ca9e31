"""Export from Python: a network that was trained in any loop, proved as a student of a run is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.arguments import checked
from limbeck.errors import InputError, RunError
from limbeck.results.parity import Exported

__all__ = ["export"]


@checked
def export(
    model: nn.Module,
    samples: Any,
    folder: Path,
    *,
    to: str = "onnx",
    tolerance: float = 1e-4,
    normalisation: bool = False,
    quantize: str | None = None,
    agreement: float = 0.99,
    fixed_sizes: bool = False,
    calibration: Any = None,
) -> Exported:
    """Write a network as a folder for others, once another process answers with it as the network does.

    Args:
        model: the network, in eval mode.  Its answer is a tensor of logits, `Outputs`, an object or mapping with
            `logits`, or a pair (logits, state); with a state the exported graph is one step.
        samples: at least 256 validation samples, if there are as many, on which the answers are compared: a `SampleSet`
            or data in another form that `limbeck.fit` accepts, or a mapping {name: tensor (N, ...)} for a network that
            takes keywords.
        folder: a new one.
        to: "onnx", "torch-export" or "transformers".
        tolerance: the largest difference of an answer, as a share of the logits' spread.
        normalisation: whether the graph scales and normalises raw inputs, as the `SampleSet` says.
        quantize: "int8" for 8-bit weights of ONNX Runtime.
        agreement: the least share of predictions that 8-bit weights leave as they were.
        fixed_sizes: whether the graph takes images of the samples' size alone.  Else sizes are free axes where the
            network takes others and the graph answers them alike, as `Exported.image_sizes` says.
        calibration: training samples in the form of `samples`; 128 of them, evenly spread, scale the inputs of 8-bit
            convolutions, which stay in float without any.

    Returns:
        The folder, the bytes of its file, the parity, and the time of an answer of both.

    Raises:
        InputError: if the network is in training mode, or a value is out of range.
        ModelError: if a package that the format needs is not installed, or the network cannot be called.
        ExportError: if the network cannot be written in this format, or the answers differ; then nothing is left.
        RunError: if the folder exists.

    Example:
        lb.export(model.eval(), validation_set, "student", to="onnx")
    """
    from limbeck.results.examples import Examples
    from limbeck.results.exported import Options, export_model

    options = Options(to, tolerance, normalisation, quantize, agreement, fixed_sizes)
    if to == "safetensors":
        raise InputError(
            "to: found safetensors for a network whose code lies elsewhere, so that another process cannot build it;"
            " expected onnx, torch-export or transformers. Save its weights with safetensors.torch.save_model"
        )
    if calibration is not None and quantize is None:
        raise InputError('calibration: found it without quantize; expected quantize="int8", which uses it')
    if model.training:
        raise InputError("model: found training mode; expected eval mode, in which it is used. Call model.eval()")
    if folder.exists():
        raise RunError(f"folder: '{folder}' exists; name another one, or delete it")
    if isinstance(samples, Mapping):
        samples = Examples.of(samples)
    if isinstance(calibration, Mapping):
        calibration = Examples.of(calibration)
    return export_model(model, samples, folder, options, calibration)
