"""limbeck export: a trained model of a run as files for others."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import Data, Trust, say, show, show_json
from limbeck.cli.streams import copied
from limbeck.errors import InputError, one_of

__all__ = ["export"]

_FORMATS = ("safetensors",)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    to: Annotated[str, typer.Option(help="the format: safetensors")] = "safetensors",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the new folder; by default RUN's name, role and seed, here")
    ] = None,
    role: Annotated[str, typer.Option(help="distilled, alone, teacher, or a role of the scheme")] = "distilled",
    seed: Annotated[int | None, typer.Option(help="of the students; else the run's first")] = None,
    tolerance: Annotated[
        float, typer.Option(help="largest difference of an answer, as a share of the logits' spread")
    ] = 1e-4,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    trust: Trust = False,
    data: Data = None,
) -> None:
    """Write a trained model as a folder: weights in their smallest form, recipe, signature, tokenizer and digests.

    The folder is read back in another process, and has to answer validation samples as the run's model does.
    """
    from limbeck.records import plain_values
    from limbeck.results.exported import export_run
    from limbeck.results.finished import FinishedRun

    if to not in _FORMATS:
        raise InputError(f"--to: found '{to}'; {one_of(to, _FORMATS)}")
    finished = FinishedRun.read(run, trust=trust, data=data)
    seed = finished.seeds[0] if seed is None else seed
    folder = Path(f"{finished.folder.resolve().name}-{role}-{seed}") if out is None else out
    found = export_run(finished, folder, role=role, seed=seed, tolerance=tolerance)
    if as_json:
        show_json({**plain_values(vars(found)), "folder": str(found.folder)})
    else:
        parity, same = found.parity, f"{100 * found.parity.agreement:.6g} % of the predictions are the same"
        with copied():
            show(
                f"{found.bytes:,} bytes of weights, {found.before:,} in the run",
                f"read back in another process: {parity.samples:,} answers differ by {parity.largest:.2g} of the "
                f"logits' spread at most; mean KL {parity.divergence:.2g}; {same}",
            )
    say(f"exported: {found.folder} · next: limbeck predict {found.folder} INPUT...")
