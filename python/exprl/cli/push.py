"""`exprl push`."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    run: Annotated[
        str,
        typer.Argument(
            help="run folder (its newest checkpoint), or RUN@step-N", show_default=False
        ),
    ],
    name: Annotated[
        str, typer.Argument(help="repository of the hub, such as me/my-model", show_default=False)
    ],
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="everybody may read it; without this a new repository is private"
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the files and print the card; send nothing")
    ] = False,
) -> None:
    """Write a trained model to the Hugging Face hub, with a card that explains it.

    One commit holds the weights (merged, and the adapter of LoRA), tokenizer,
    config, metrics, evaluations and curves. Rollouts, references and the judge's
    replies stay here. The hub's token is that of `hf auth login` or HF_TOKEN.

    Example: exprl push runs/first me/my-model --dry-run
    """
    from rich.filesize import decimal

    from exprl.study.push import prepare, send

    upload = prepare(run, name)
    sizes = upload.sizes()
    for file, size in sizes.items():
        typer.echo(f"{decimal(size):>10}  {file}")
    who = "everybody may read it" if public else "private if it is new"
    typer.echo(f"{decimal(sum(sizes.values())):>10}  in {len(sizes)} files, to {name} ({who})")
    if dry_run:
        typer.echo(f"\n{upload.card}", nl=False)
        return
    typer.echo(send(upload, public=public))
