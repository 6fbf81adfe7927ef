"""The terminal of a run: lines that fit its width, bars with rates and time left, plain logs."""

import io
import math

import pytest
from rich.console import Console
from rich.text import Text

from exprl.monitor.progress import Pace, Progress
from exprl.monitor.step_line import COLUMNS, choose_columns

STEP = {
    "reward/mean": 0.5,
    "reward/correct_rate": 0.25,
    "reward/unsolved": 0.125,
    "judge/requests": 1792,
    "judge/missing_rate": 0.031,
    "reward/zero_variance_groups": 2,
    "rollout/length_mean": 66.4,
    "rollout/tokens": 17000,
    "policy/kl": 0.0123,
    "policy/entropy": 0.456,
    "time/rollout_s": 2.0,
    "time/judge_s": 0.3,
    "time/train_s": 1.5,
    "time/sync_s": 0.04,
    "time/step_s": 3.84,
}
LARGE = {  # a step of a large run: every value as wide as it gets
    **STEP,
    "judge/requests": 123456,
    "reward/correct_rate": 1.0,
    "judge/missing_rate": 1.0,
    "reward/unsolved": 1.0,
    "reward/zero_variance_groups": 1024,
    "rollout/length_mean": 16384,
    "rollout/tokens": 9_000_000,
    "policy/kl": 12.3456,
    "time/rollout_s": 5999,
    "time/judge_s": 5999,
    "time/train_s": 5999,
    "time/sync_s": 5999,
    "time/step_s": 23000,
}


def terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, **settings: bool
) -> tuple[Progress, io.StringIO]:
    """A progress on a terminal; what is printed, escape sequences included."""
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False, **settings)
    return Progress(console), out


def log_file(width: int = 80) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    return Progress(Console(file=out, force_terminal=False, width=width, highlight=False)), out


def lines_of(out: io.StringIO) -> list[str]:
    """What was printed, without colours and the codes that move the cursor."""
    text = Text.from_ansi(out.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "")).plain
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("total", [8, 1000])
def test_titles_and_rows_fit_the_terminal_and_stand_below_each_other(
    width: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, out = terminal(width, monkeypatch)
    progress.step(1, total, STEP)
    progress.step(total, total, LARGE)
    titles, *rows = lines_of(out)
    assert len(titles) <= width and all(len(row) <= width for row in rows)
    assert titles.split()[:2] == ["step", "reward"]
    for column, shown in zip(titles.split()[1:], rows[0].split()[1:], strict=True):
        end = titles.index(column) + len(column)
        assert rows[0][:end].endswith(shown) and (rows[0] + " ")[end] == " "
    assert len(rows[1].split()) == len(titles.split()), "no two values of a large run touch"


def test_a_wider_terminal_shows_more_and_the_first_ranks_come_first() -> None:
    def titles(width: int) -> list[str]:
        return [column.title for column in choose_columns(width, total=230)]

    assert titles(60) == ["reward", "solved", "missing", "length", "KL", "time"]
    assert titles(80) == [
        *("reward", "solved", "unsolved", "missing", "equal", "length", "KL", "entropy", "time")
    ]
    assert titles(140) == [column.title for column in COLUMNS]
    assert titles(0) == []


def test_a_terminal_that_changes_its_width_gets_new_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, out = terminal(140, monkeypatch)
    progress.step(1, 16, STEP)
    progress.step(2, 16, STEP)
    progress._console.width = 60
    progress.step(3, 16, STEP)
    first, _, _, second, _ = lines_of(out)
    assert "tokens/s" in first and second.startswith(" step reward") and "tokens/s" not in second


def test_what_does_not_exist_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, out = terminal(80, monkeypatch)
    progress.step(1, 16, {**STEP, "reward/mean": math.nan})
    titles, row = lines_of(out)
    assert row[: titles.index("reward") + len("reward")].endswith("     -")


def test_without_a_terminal_a_step_is_one_plain_line_of_at_most_80_characters() -> None:
    progress, out = log_file()
    with progress:
        progress.start(0, 16)
        progress.phase("sample", 1, 256)
        progress.step(3, 16, STEP)
        progress.step(4, 16, {"reward/mean": 0.75, "policy/kl": math.nan})
        progress.step(16, 16, LARGE)
    assert out.getvalue().splitlines() == [
        "step 3/16  reward 0.500  solved 25.0%  missing 3.1%  length 66  time 3.8s",
        "step 4/16  reward 0.750",
        "step 16/16  reward 0.500  solved 100.0%  missing 100.0%  time 6h23m",
    ]


def test_the_lines_of_a_log_have_the_same_names_while_numbers_grow_a_little() -> None:
    progress, out = log_file(width=73)
    progress.step(1, 16, {**STEP, "judge/missing_rate": 0.0, "rollout/length_mean": 9.0})
    progress.step(2, 16, {**STEP, "judge/missing_rate": 0.01, "rollout/length_mean": 1234.0})
    first, second = (line.split()[2::2] for line in out.getvalue().splitlines())
    assert first == second


def test_a_wide_log_has_every_number_of_the_line() -> None:
    progress, out = log_file(width=250)
    progress.step(3, 16, STEP)
    assert out.getvalue() == (
        "step 3/16  reward 0.500  solved 25.0%  unsolved 12.5%  requests 1,792  missing 3.1%"
        "  equal 2  length 66  KL 0.0123  entropy 0.456  tokens/s 8,500"
        "  sample 2.0s  judge 0.3s  train 1.5s  sync 0.0s  time 3.8s\n"
    )


def test_a_long_warning_is_whole_on_a_terminal_and_one_line_in_a_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = " ".join(f"word{i}" for i in range(40))
    live, screen = terminal(60, monkeypatch)
    plain, log = log_file()
    live.warn(text)
    plain.warn(text)
    lines = lines_of(screen)
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(lines) == f"warning: {text}"
    assert log.getvalue() == f"warning: {text}\n"


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_bars_fit_the_terminal_and_say_rate_and_time_left(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, out = terminal(width, monkeypatch)
    now = [100.0]
    monkeypatch.setattr(progress._bars, "get_time", lambda: now[0])
    progress.start(2, 230)
    progress.phase("sample", 0, 576, step=123)
    now[0] += 10.0
    progress.phase("sample", 96, 576, step=123)
    now[0] += 5.0
    for task in progress._bars.tasks:  # rich keeps the clock of a bar's birth
        task._get_time = lambda: now[0]
    progress._console.print(progress._bars.get_renderable())
    run, sample = lines_of(out)[-2:]
    assert max(len(run), len(sample)) <= width
    assert run.split()[0] == "run" and "2/230" in run
    assert sample.split()[:2] == ["sample", "123"]
    assert "96/576" in sample and "9.6/s" in sample and "45.0s left" in sample


def test_a_run_bar_counts_the_time_of_steps_and_not_that_of_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress, _ = terminal(80, monkeypatch)
    progress.start(2, 12)
    progress.step(3, 12, {"time/step_s": 30.0})
    progress.step(4, 12, {"time/step_s": 50.0})
    [run] = progress._bars.tasks
    assert run.fields["pace"].rate(run.completed) == pytest.approx(2 / 80)


def test_what_was_done_before_a_bar_began_does_not_count_as_speed() -> None:
    assert Pace(begun=90.0, seconds=2.0, at=2.0).rate(done=94.0) == 2.0
    assert Pace(begun=90.0).rate(done=90.0) is None
    assert Pace(begun=0.0, seconds=4.0, at=4.0).seconds_left(2.0, 3.0, elapsed=99.0) == 0.0


def test_no_color_prints_no_colour_and_keeps_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    progress, out = terminal(80, monkeypatch)
    progress.step(1, 16, STEP)
    progress.warn("look")
    assert "\x1b[3" not in out.getvalue() and "0.500" in out.getvalue()


def test_a_pipe_that_wants_colours_gets_no_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress() as progress:
        progress.start(0, 2)
        progress.phase("sample", 1, 256)
        progress.step(1, 2, STEP)
    said = capsys.readouterr().err
    assert "\x1b[?25l" not in said and "\x1b[2K" not in said and "sample" not in said
    assert "reward 0.500" in Text.from_ansi(said).plain
