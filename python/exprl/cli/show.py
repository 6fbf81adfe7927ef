"""`exprl show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SELECT = "Which rollouts (one of these, within --step and --problem)"


def _selection(help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        help=help_text, rich_help_panel=SELECT, show_default=False
    )
    return option


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder", show_default=False)],
    step: Annotated[
        str | None,
        typer.Option(
            "--step", "--steps", help="training steps to look at, such as 12 or 1-10 (default: all)"
        ),
    ] = None,
    problem: Annotated[str | None, typer.Option(help="id of a problem: its rollouts only")] = None,
    rollout: Annotated[
        int | None, typer.Option(min=0, help="place of one rollout in the group of its problem")
    ] = None,
    best: Annotated[bool, _selection("the highest mean scores first")] = False,
    worst: Annotated[bool, _selection("the lowest mean scores first")] = False,
    disagree: Annotated[
        bool, _selection("judge and verifier disagree about the answer; the farthest apart first")
    ] = False,
    wrong_but_5: Annotated[bool, _selection("wrong answer, last grade 5")] = False,
    right_but_1: Annotated[bool, _selection("right answer, last grade 1")] = False,
    missing: Annotated[bool, _selection("out of the step for a missing grade or score")] = False,
    repaired: Annotated[
        bool, _selection("the judge was asked again for the grade alone; most such steps first")
    ] = False,
    injection: Annotated[bool, _selection("the text speaks to the judge")] = False,
    largest_advantage: Annotated[bool, _selection("the largest advantage first")] = False,
    longest: Annotated[bool, _selection("the most tokens first")] = False,
    single_step: Annotated[bool, _selection("one step alone")] = False,
    overlong: Annotated[bool, _selection("cut at the length limit")] = False,
    blank: Annotated[bool, _selection("empty, or thinking that never ends")] = False,
    limit: Annotated[int, typer.Option(min=1, help="rollouts to show in full")] = 3,
    words: Annotated[
        bool, typer.Option("--words/--no-words", help="show the judge's words of each step")
    ] = True,
    full: Annotated[bool, typer.Option("--full", help="do not cut long texts")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON object per rollout, texts uncut")
    ] = False,
) -> None:
    """Print rollouts of a run: each step with grade, advantage and the judge's own words.

    Without a selection it lists the problems of the newest step. Also works while the run trains.

    Example: exprl show runs/first --worst

    Example: exprl show runs/first --step 12 --problem p7 --rollout 3

    Output in a pipe is plain. A model's control characters are printed as escapes, and each line
    of its text begins with |. The viewer shows the same in a browser: exprl view RUN.
    """
    from exprl.cli.show_rollouts import Request, command

    selections = {
        "best": best,
        "worst": worst,
        "disagree": disagree,
        "wrong_but_5": wrong_but_5,
        "right_but_1": right_but_1,
        "missing": missing,
        "repaired": repaired,
        "injection": injection,
        "largest_advantage": largest_advantage,
        "longest": longest,
        "single_step": single_step,
        "overlong": overlong,
        "blank": blank,
    }
    command(
        Request(
            run=run,
            steps=step,
            problem=problem,
            index=rollout,
            picks=tuple(name for name, wanted in selections.items() if wanted),
            limit=limit,
            words=words,
            full=full,
            as_json=as_json,
        )
    )
