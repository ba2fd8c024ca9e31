"""limbeck export: a trained model of a run as files for others."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import Data, Trust, say, show, show_json
from limbeck.cli.streams import copied

if TYPE_CHECKING:
    from limbeck.results.parity import Exported, Parity

__all__ = ["export"]


class _With(StrEnum):
    normalisation = "normalisation"


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    to: Annotated[str, typer.Option(help="safetensors, transformers, torch-export or onnx")] = "safetensors",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the new folder; by default RUN's name, role, seed and format")
    ] = None,
    role: Annotated[str, typer.Option(help="distilled, alone, teacher, or a role of the scheme")] = "distilled",
    seed: Annotated[int | None, typer.Option(help="of the students; else the run's first")] = None,
    inside: Annotated[
        _With | None, typer.Option("--with", help="put the scaling and normalisation of raw inputs into the graph")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="int8: 8-bit weights of ONNX Runtime, with --to onnx")] = None,
    tolerance: Annotated[
        float, typer.Option(help="largest difference of an answer, as a share of the logits' spread")
    ] = 1e-4,
    agreement: Annotated[float, typer.Option(help="least share of predictions that int8 leaves as they were")] = 0.99,
    fixed_sizes: Annotated[bool, typer.Option("--fixed-sizes", help="a graph for images of the data's size")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    trust: Trust = False,
    data: Data = None,
) -> None:
    """Write a trained model as a folder for others: its weights, or a graph that runs without limbeck.

    The folder is read back in another process, and has to answer validation samples as the run's model does.
    """
    from limbeck.records import plain_values
    from limbeck.results.exported import Options, export_run
    from limbeck.results.finished import FinishedRun

    options = Options(to, tolerance, inside is not None, quantize, agreement, fixed_sizes)
    finished = FinishedRun.read(run, trust=trust, data=data)
    seed = finished.seeds[0] if seed is None else seed
    if out is None:
        ending = "" if to == "safetensors" else f"-{to}"
        out = Path(f"{finished.folder.resolve().name}-{role}-{seed}{ending}{'-int8' if quantize else ''}")
    found = export_run(finished, out, role=role, seed=seed, options=options)
    if as_json:
        show_json({**plain_values(vars(found)), "folder": str(found.folder)})
    else:
        with copied():
            show(*_lines(found))
    trusted = " --trust" if to == "torch-export" else ""
    say(f"exported: {found.folder} · next: limbeck predict {found.folder} INPUT...{trusted}")


def _lines(found: "Exported") -> list[str]:
    """Return what is printed of an export."""
    from limbeck.devices import crowded

    small = found.quantized
    lines = [
        f"{found.bytes if small is None else small.bytes_before:,} bytes, {found.before:,} in the run",
        f"read back in another process: {_parity(found.parity)}",
    ]
    if small is not None:
        lines.append(f"int8: {found.bytes:,} bytes; {_parity(small.parity)}")
        if small.before is not None and small.after is not None:
            lines.append(
                f"{small.figure} on {small.examples:,} validation examples: {small.before:g} before, {small.after:g} in"
                " int8"
            )
    if found.image_sizes is not None:
        lines.append(f"sizes of images: {found.image_sizes}")
    before, after = found.torch.seconds * 1e3, found.exported.seconds * 1e3
    lines.append(f"latency at batch 1 on one thread: {before:.3g} ms with torch, {after:.3g} ms exported")
    return lines if (line := crowded()) is None else [*lines, line]


def _parity(parity: "Parity") -> str:
    besides = f", and texts of {', '.join(map(str, parity.lengths))} tokens," if parity.lengths else ""
    if parity.sizes:
        besides = f", and images of {', '.join(f'{high} × {wide}' for high, wide in parity.sizes)},"
    return (
        f"{parity.samples:,} answers{besides} differ by {parity.largest:.2g} of the logits' spread at most; mean KL "
        f"{parity.divergence:.2g}; {100 * parity.agreement:.6g} % of the predictions are the same"
    )
