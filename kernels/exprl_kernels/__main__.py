"""Command line: `python -m exprl_kernels selftest` and `python -m exprl_kernels tune`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exprl_kernels import selftest, tune

DESCRIPTION = """\
The token-level GRPO loss of a language-model head, fused.

  python -m exprl_kernels selftest     does this machine compute the loss right? (seconds)
  python -m exprl_kernels tune         find faster block sizes for this GPU (minutes)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 if all is well, 1 if a check failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m exprl_kernels",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "selftest",
        help="check every operation on this machine against fp64",
        description=selftest.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--device", help="cuda, cuda:1, cpu, ... (default: a GPU if there is one)")
    better = commands.add_parser(
        "tune",
        help="time block sizes on this GPU and write the fastest down",
        description=tune.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    better.add_argument("--vocab", type=int, default=151_936, help="V (default 151936)")
    better.add_argument("--rows", type=int, default=4096, help="tokens of a chunk (default 4096)")
    better.add_argument(
        "--out", type=Path, help="file to write (default: where the kernels look for it)"
    )
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "selftest":
                return selftest.run(chosen.device)
            case _:
                return tune.run(chosen.vocab, chosen.rows, chosen.out)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
