"""How long `weft --help` and `weft check` take from the start of the process to its end.

    python benchmarks/startup.py [--check]

The best of many calls, since everything else on the machine only adds to it. Goals: 0.15 s for
`--help`, 0.5 s for a check of the digits example; with --check they must hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits_mlp.weft"
GOALS = {("--help",): 0.15, ("check", str(EXAMPLE)): 0.5}


def seconds(arguments: tuple[str, ...]) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "weft", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    options = parser.parse_args()
    missed = 0
    for arguments, goal in GOALS.items():
        best = min(seconds(arguments) for _ in range(options.calls))
        missed += best > goal
        print(f"weft {arguments[0]:7} {best:.3f} s   (goal {goal} s)")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
