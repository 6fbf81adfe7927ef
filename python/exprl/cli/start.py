"""`exprl demo`, `examples`, `doctor` and `pins`: the first commands on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exprl.cli.options import Overrides


def demo(
    overrides: Overrides = None,
    run_dir: Annotated[
        Path, typer.Option(help="folder of the run; an earlier demo there is replaced")
    ] = Path("runs/demo"),
    config_file: Annotated[
        Path | None, typer.Option("--config", help="another config (default: the demo's own)")
    ] = None,
) -> None:
    """Watch a small policy that never solves a problem learn to solve most of them.

    It needs no GPU and no files: the example is part of the package. Allow a few minutes.
    """
    from exprl.cli import demo

    raise typer.Exit(demo.run(config_file, run_dir, overrides or ()))


def examples(
    folder: Annotated[
        Path, typer.Argument(help="where configs/ and examples/ are written")
    ] = Path(),
) -> None:
    """Copy the example and its configs out of the package, to run and to change.

    Example: exprl examples && exprl train configs/division_sparse.toml
    """
    from exprl.cli import shipped

    for path in shipped.copy_example(folder):
        typer.echo(f"wrote {path}")


def doctor() -> None:
    """Show what is installed, what is missing, and what would run here."""
    from exprl.cli import doctor

    doctor.report()


def pins() -> None:
    """Print every package with the version that exprl is tested with, for a machine without a GPU.

    Example: exprl pins | uv pip install --no-deps -r -
    """
    from exprl.cli import shipped

    typer.echo(shipped.pins(), nl=False)
