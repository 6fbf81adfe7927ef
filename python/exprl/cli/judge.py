"""`exprl judge` and `exprl rubric`: the Rust command line, which `exprl-judge` is as well."""

from __future__ import annotations

import typer

rubrics = typer.Typer(no_args_is_help=True, help="Write a rubric for each problem.")


def judge(context: typer.Context) -> None:
    """Use the judge alone, without torch or vLLM: score, rubric, serve, ledger."""
    from exprl import _core

    _leave_ctrl_c_to_rust()
    raise typer.Exit(_core.judge_command(context.args))


@rubrics.command(
    "build",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def rubric_build(context: typer.Context) -> None:
    """Have a model write each problem's checklist from its reference; see --help.

    Example: exprl rubric build train.jsonl -o rubrics.jsonl --endpoint URL --model NAME
    """
    from exprl import _core

    _leave_ctrl_c_to_rust()
    raise typer.Exit(_core.rubric_command(context.args))


def _leave_ctrl_c_to_rust() -> None:
    """It writes what has finished, and ends with 130."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
