"""How long it takes to import limbeck over importing torch, and to print `limbeck --help`.

    python benchmarks/start_up.py [--rounds 11] [--json FILE]

Each round starts fresh processes in turn: `import torch`; `import limbeck` with everything that limbeck names publicly;
`limbeck --help`.  The figures are medians over rounds, after one that is not counted, which leaves behind the bytecode
that an installed package has (also where PYTHONDONTWRITEBYTECODE would forbid it).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_EVERYTHING = "import limbeck; [getattr(limbeck, name) for name in limbeck.__all__]"


def main() -> None:
    """Run the rounds and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import limbeck, all names": [sys.executable, "-c", _EVERYTHING],
        "limbeck --help": [sys.executable, "-c", "from limbeck.cli import main; main()", "--help"],
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            if number:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:<26} median {medians[name]:.3f} s ({min(values):.3f} to {max(values):.3f})")
    ratio = medians["import limbeck, all names"] / medians["import torch"]
    print(f"import limbeck / import torch: {ratio:.3f}")
    if options.json:
        content = {"ratio": ratio, "medians": medians, "seconds": seconds}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
