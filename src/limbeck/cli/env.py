"""limbeck env: what a bug report needs."""

import os
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import show, show_json

__all__ = ["env"]


@app.command()
def env(as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """Print versions, devices and folders, as a bug report needs them."""
    from limbeck.own import cache_folder
    from limbeck.runs import environment

    found = {**environment(), "cpus": os.cpu_count(), "cache": str(cache_folder())}
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        show(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
