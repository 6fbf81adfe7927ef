"""`exprl demo`, `examples`, `init` and `pins`: the first commands on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exprl.cli.options import Overrides, read_overrides


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

    raise typer.Exit(demo.run(config_file, run_dir, read_overrides(overrides)))


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


def init(
    data: Annotated[
        str,
        typer.Argument(
            help="jsonl, json, csv or parquet file, a folder, or a hub id", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="the config that is written")] = Path("exprl.toml"),
    model: Annotated[
        str, typer.Option(help="folder or hub id of the model to train")
    ] = "Qwen/Qwen3-0.6B",
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="base URL of a judge server; may repeat (default: a rule rehearses)"),
    ] = None,
    judge: Annotated[str, typer.Option(help="model that the judge servers serve")] = "",
    problem: Annotated[str | None, typer.Option(help="column of the problem")] = None,
    reference: Annotated[
        str | None, typer.Option(help="column of the hidden solution, or none")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="column of the final answer, or none")] = None,
    split: Annotated[str, typer.Option(help="split of a hub dataset")] = "train",
    subset: Annotated[str | None, typer.Option(help="subset of a hub dataset")] = None,
) -> None:
    """Look at your data and write a commented config for it.

    It guesses which column holds what, where the answer stands and how long texts are, and says
    why, and what it could not tell. It replaces no file.

    Example: exprl init train.jsonl --out first.toml && exprl train first.toml --dry-run
    """
    from exprl import config
    from exprl.cli.guess import Asked
    from exprl.cli.init import write_config

    source = config.Source(path=data, split=split, subset=subset)
    asked = Asked(problem, reference, answer)
    write_config(source, out, model, endpoint or (), judge, asked)


def pins() -> None:
    """Print every package with the version that exprl is tested with, for a machine without a GPU.

    Example: exprl pins | uv pip install --no-deps -r -
    """
    from exprl.cli import shipped

    typer.echo(shipped.read_pins(), nl=False)
