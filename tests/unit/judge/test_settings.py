"""Each setting of the judge, from the text of a config or a flag to the judge's own work."""

import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from typer.testing import CliRunner

from exprl import _core, advantage, config
from exprl.cli.app import app
from exprl.cli.study import named_judge
from exprl.errors import ConfigError
from exprl.judge import (
    SOLUTION_VIEW,
    JudgeItem,
    JudgeSettings,
    JudgeStats,
    Layout,
    Readout,
    ScoreMap,
    Status,
    Verdict,
    View,
)
from exprl.reward.judges import open_judge, settings_for
from exprl.run.recorded import MAY_CHANGE
from exprl.study.calibrate_command import Request

NAMES = [f.name for f in fields(JudgeSettings)]
STEPS = ("<think>A guess.</think>### 2 + 2 = 4 ", "### It is 4.")
ITEM = JudgeItem("0", "What is 2 + 2?", "2 + 2 = 4", STEPS)
RUBRIC = {"head": "Grade like a pirate.", "instruction": "End with a line `Score: n`."}
CHECKLIST = {
    "problem": ITEM.problem,
    "checkpoints": [{"text": "It is four.", "weight": 3}, {"text": "It adds.", "weight": 1}],
}


@dataclass
class Seen:
    """What a judge did with one item."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    verdicts: tuple[Verdict, ...] = ()
    stats: JudgeStats | None = None
    page: str = ""
    reported: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What the first request asks."""
        return str(self.requests[0]["messages"][0]["content"])


@dataclass(frozen=True)
class Case:
    """A value in the words of TOML, and whether the judge's work shows it.

    shows: None where only the dispatcher's own report can: times and shares of a bad day.
    server: what it does with a request: grades, says no grade, fails or never answers.
    """

    value: Any
    shows: Callable[[Seen], bool] | None = None
    server: str = "grades"


def cases(folder: Path, url: str) -> dict[str, Case]:
    """One case for each setting, under a name of the setting's."""
    return {
        "endpoints": Case([url], lambda seen: len(seen.requests) == 2),
        "model": Case("7", lambda seen: seen.requests[0]["model"] == "7"),
        "view": Case("step", lambda seen: "<step-" in seen.words),
        "readout": Case("expected", lambda seen: seen.requests[0]["logprobs"] is True),
        "score_map": Case("binary", lambda seen: seen.verdicts[0].score == 1.0),
        "rubric": Case(str(folder / "rubric.toml"), lambda seen: "pirate" in seen.words),
        "rubrics": Case(str(folder / "rubrics.jsonl"), lambda seen: "It is four." in seen.words),
        "show_thinking": Case(True, lambda seen: "A guess." in seen.words),
        "temperature": Case(0.5, lambda seen: seen.requests[0]["temperature"] == 0.5),
        "max_tokens": Case(77, lambda seen: seen.requests[0]["max_tokens"] == 77),
        "extra": Case({"top_p": 0.25}, lambda seen: seen.requests[0]["top_p"] == 0.25),
        "concurrency": Case(3, lambda seen: f'_window{{server="{url}"}} 3' in seen.page),
        "kv_tokens": Case(16000, lambda seen: f'_capacity{{server="{url}"}} 16000' in seen.page),
        "rpm": Case(100000),
        "tpm": Case(10000000),
        "hedge": Case(0.5),
        "prices": Case(
            {"prompt": 1e6, "cached": 2.0, "completion": 3.0},
            lambda seen: seen.stats.cost == pytest.approx(100.000006),
        ),
        "attempts": Case(1, lambda seen: seen.verdicts[0].attempts == 1, "fails"),
        "retry_budget": Case(0.5),
        "reask": Case(False, lambda seen: len(seen.requests) == 2, "says no grade"),
        "stream": Case(True, lambda seen: seen.requests[0]["stream"] is True),
        "connect_timeout_s": Case(2.5),
        "first_byte_timeout_s": Case(120.0),
        "idle_timeout_s": Case(30.0),
        "deadline_s": Case(0.05, lambda seen: seen.verdicts[0].status == "timeout", "is silent"),
        "outage_s": Case(45.0),
        "queue_bytes": Case(1 << 20),
        "ledger": Case(str(folder / "kept"), lambda _: any((folder / "kept").iterdir())),
        "revision": Case("second", lambda seen: len(seen.requests) == 2),
        "sample_index": Case(5, lambda seen: len(seen.requests) == 2),
        "api_key_env": Case("EXPRL_TEST_KEY", lambda seen: seen.keys[0] == "Bearer sk-env"),
        "api_key_file": Case(str(folder / "key"), lambda seen: seen.keys[0] == "Bearer sk-file"),
        "ca_file": Case(str(folder / "ca.pem")),
        "layout": Case(
            "reference_last",
            lambda seen: seen.words.index("<reference-") > seen.words.index("</prefix-"),
        ),
    }


@contextmanager
def serving(seen: Seen, behaviour: str) -> Iterator[str]:
    """A judge's server; gives its URL."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            seen.keys.append(self.headers["Authorization"])
            if behaviour == "is silent":
                ended.wait()
            reply = "I cannot say." if behaviour == "says no grade" else "Right.\nScore: 4"
            choice = {"message": {"content": reply}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 50, "completion_tokens": 1}
            answer = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(500 if behaviour == "fails" else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        ended.set()
        server.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rubric.toml").write_text(tomli_w.dumps(RUBRIC))
    (tmp_path / "rubrics.jsonl").write_text(json.dumps(CHECKLIST) + "\n")
    (tmp_path / "key").write_text("sk-file\n")
    monkeypatch.setenv("EXPRL_TEST_KEY", "sk-env")
    return tmp_path


def config_of(judge: dict[str, Any], folder: Path) -> config.Config:
    """The config of a run whose file has this `[judge]`."""
    run = {
        "model": {"path": "m"},
        "data": {"path": "d.jsonl", "columns": {"reference": "solution"}},
        "judge": judge,
    }
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(run))
    return config.load(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_in_toml_reaches_the_judge(name, folder, certificate):
    (folder / "ca.pem").write_bytes(certificate)
    seen = Seen()
    behaviour = cases(folder, "")[name].server
    with serving(seen, behaviour) as url:
        case = cases(folder, url)[name]
        given = {"endpoints": [url], "model": "m", "kv_tokens": 0, name: case.value}
        section = config_of(given, folder).judge
        if name in ("revision", "sample_index"):  # they let a ledger ask again
            judge_once(replace(section, **{name: JudgeSettings().__dict__[name]}), folder)
            seen.requests.clear()
        seen = judge_once(section, folder, seen)
    assert seen.reported[name] == case.value != json.loads(_core.judge_defaults())[name]
    if case.shows is not None:
        assert case.shows(seen), seen


def judge_once(section: config.Judge, folder: Path, seen: Seen | None = None) -> Seen:
    """Let the judge of a training run grade one item."""
    seen = seen or Seen()
    own = settings_for(section, (section.view, section.rubric), 1, folder)
    with open_judge(own, seed=0) as judge:
        seen.verdicts = judge.submit([ITEM]).result()[0].verdicts
        seen.stats, seen.page = judge.stats(), judge.prometheus()
        seen.reported = json.loads(judge._core.settings())
    return seen


@pytest.fixture(scope="module")
def certificate():
    """A certificate in PEM form."""
    import certifi

    first = Path(certifi.where()).read_text().split("-----END CERTIFICATE-----")[0]
    return f"{first}-----END CERTIFICATE-----\n".encode()


def settings_of_flags(*flags: str) -> dict[str, Any]:
    """The settings that `exprl judge score` has under these flags."""
    code = "import sys; from exprl import _core; sys.exit(_core.judge_command(sys.argv[1:]))"
    line = json.dumps({"id": "0", "problem": "p", "reference": "r", "trace": "t"})
    done = subprocess.run(
        [sys.executable, "-c", code, "score", "--dry-run", *flags],
        input=line,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    settings: dict[str, Any] = json.loads(done.stdout)["settings"]
    return settings


def as_flags(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    match value:
        case True:
            return [flag]
        case False:
            return [f"--no-{flag[2:]}"]
        case list():
            return [word for text in value for word in (flag.removesuffix("s"), text)]
        case dict():
            return [flag, json.dumps(value)]
        case _:
            return [flag, str(value)]


def test_a_flag_says_what_the_config_says(folder):
    values = {name: case.value for name, case in cases(folder, "http://127.0.0.1:9/v1").items()}
    del values["rubrics"]  # the command looks them up itself, line by line
    del values["api_key_file"]  # one key at a time
    flags = [word for name, value in values.items() for word in as_flags(name, value)]
    of_flags = settings_of_flags(*flags)
    of_config = json.loads(config_of(values, folder).judge.to_json())
    assert of_flags == of_config
    kept = {"rubrics", "api_key_file"}
    assert {
        name for name in NAMES if of_config[name] == json.loads(JudgeSettings().to_json())[name]
    } == kept


def test_the_three_ways_in_have_the_same_defaults():
    rust = json.loads(_core.judge_defaults())
    assert json.loads(JudgeSettings().to_json()) == rust
    assert json.loads(config.Judge().to_json()) == rust
    flags = settings_of_flags("--endpoint", "http://127.0.0.1:9/v1", "--model", "m")
    whole = {"endpoints": ["http://127.0.0.1:9/v1"], "model": "m", "view": SOLUTION_VIEW}
    assert flags == rust | whole
    assert Request(Path(), Path(), JudgeSettings()).view == SOLUTION_VIEW != rust["view"]
    assert rust["deadline_s"] == 3600


def test_both_languages_have_the_same_settings_and_each_has_help():
    help_of = dict(_core.judge_settings())
    assert list(help_of) == NAMES
    for own in fields(config.Judge):
        assert own.metadata["description"], own.name
    for name, text in help_of.items():
        assert config.Judge.__pydantic_fields__[name].description == text.removesuffix(".")


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("View", View),
        ("Layout", Layout),
        ("Readout", Readout),
        ("ScoreMap", ScoreMap),
        ("Status", Status),
        ("AdvantageKind", advantage.AdvantageKind),
        ("SingleSegment", advantage.SingleSegment),
    ],
)
def test_both_languages_have_the_same_choices(name, choice):
    assert list(get_args(choice)) == _core.judge_choices()[name]


def test_the_limits_are_divided_among_judges_and_the_rest_stays():
    whole = JudgeSettings(concurrency=64, rpm=100, tpm=None, kv_tokens=0, attempts=4)
    third = whole.divide_limits(3)
    assert (third.concurrency, third.rpm, third.tpm, third.kv_tokens) == (21, 33, None, 0)
    assert replace(third, concurrency=64, rpm=100) == whole
    assert JudgeSettings(rpm=2).divide_limits(3).rpm == 1


def test_a_section_divides_as_settings_do_and_stays_a_section():
    section = config.Judge(rules="division", kind="rules", concurrency=10)
    assert section.divide_limits(2) == replace(section, concurrency=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judge.rpm=0", "judge.rpm = 0"),
        ("judge.rmp=5", "did you mean judge.rpm?"),
        ("judge.reask=1.5", "judge.reask = 1.5"),
        ("judge.prices={prompt=1.0}", "judge.prices.cached is required"),
        ("judge.prices={prompt=1.0,cached=1.0,completion=1.0,fee=2.0}", "judge.prices.fee"),
    ],
)
def test_a_wrong_override_of_the_judge_is_named(text, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        config.build_judge([text])


def test_overrides_alone_make_a_judge_and_leave_others_aside():
    judge = config.build_judge(["judge.hedge=0.5", "optim.lr=1.0", 'judge.extra={"top_p"=0.9}'])
    assert judge == config.Judge(hedge=0.5, extra={"top_p": 0.9})


def test_settings_without_json_are_refused_by_name():
    with pytest.raises(ConfigError, match="`temperature` = nan"):
        JudgeSettings(temperature=float("nan")).to_json()


def test_a_judge_section_survives_the_way_through_toml(folder):
    values = {name: case.value for name, case in cases(folder, "http://127.0.0.1:9/v1").items()}
    cfg = config_of(
        {name: value for name, value in values.items() if name != "api_key_file"}, folder
    )
    assert config.build(tomllib.loads(config.to_toml(cfg))) == cfg


def test_a_run_goes_on_with_another_way_to_its_judge_but_not_with_another_question():
    for name in ("endpoints", "api_key_file", "tpm", "deadline_s", "prices", "max_missing_rate"):
        assert f"judge.{name}" in MAY_CHANGE
    fixed = [f"judge.{f.name}" for f in fields(config.Judge) if not f.metadata["may_change"]]
    assert {"judge.model", "judge.view", "judge.temperature", "judge.extra"} <= {*fixed}
    assert not [key for key in fixed if key.startswith(MAY_CHANGE)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge.rpm=0"], "judge.rpm = 0"),
        (["judge.view=prefix"], "--view"),
        (["judge.ledger=kept"], "--out"),
        ([], "--endpoint needs --model"),
    ],
)
def test_a_setting_of_a_calibration_is_checked_before_anything_is_asked(tmp_path, words, message):
    rows = [{"problem": "p", "reference": "r", "trace": "t", "correct": True}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"] if words else ["--endpoint", "u"]
    sets = [word for text in words for word in ("--set", text)]
    done = CliRunner().invoke(app, ["calibrate", str(source), *told, *sets])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_a_calibration_takes_from_the_config_what_no_override_says(folder):
    rows = [{"problem": "p", "reference": "r", "trace": "t", "correct": True}]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config_of({"endpoints": ["http://127.0.0.1:9/v1"], "model": "m", "max_tokens": 77}, folder)
    words = ["calibrate", str(source), "--config", str(folder / "config.toml")]
    words += ["--condition", "right", "--set", "judge.temperature=0.5"]
    seen = Seen()
    with serving(seen, "grades") as url:
        done = CliRunner().invoke(app, [*words, "--set", f'judge.endpoints=["{url}"]'])
    assert done.exit_code == 0, done.exception
    (asked,) = seen.requests
    assert (asked["max_tokens"], asked["temperature"]) == (77, 0.5)
    assert "<outcome-" in seen.words


def test_an_annotator_is_set_as_a_judge_is():
    annotator = named_judge(["u"], "m", ["judge.hedge=0.5", "judge.model=x"], max_tokens=None)
    assert annotator == config.Judge(endpoints=("u",), model="m", hedge=0.5)
