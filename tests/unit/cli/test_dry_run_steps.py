"""What the dry run says of steps and of references, before anything is trained."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exprl import config
from exprl.cli.dry_run import stalling, warnings
from exprl.cli.dry_run.references import grade_references
from exprl.cli.dry_run.steps import sample_steps, warn_of_prompts
from exprl.data.problems import load_problems
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import JudgeError
from exprl.judge import RuleJudge
from exprl.types import Message, Prompt, ReferenceProblem

QUESTION = "A hall has 7 rows of 9 chairs. 4 chairs break. How many are whole?"
REFERENCE = "7 * 9 = 63 chairs.\n\n63 - 4 = 59 are whole.\n\n#### 59"


def problem(name="p", *, reference=REFERENCE, system=None, user=QUESTION):
    messages = ([Message("system", system)] if system else []) + [Message("user", user)]
    return ReferenceProblem(name, Prompt(name, tuple(messages)), "59", "math", reference=reference)


def config_of(view="prefix", judge=None, **reward):
    rule = {} if "endpoints" in (judge or {}) else {"kind": "rules", "rules": "numbers"}
    return config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "judge": {"view": view, **rule, **(judge or {})},
            "reward": reward,
            "advantage": {"kind": "grpo" if view == "outcome" else "delta"},
        }
    )


@pytest.mark.parametrize(
    ("reward", "system", "warned"),
    [
        ({}, None, True),
        ({}, "Begin each step with ###.", False),
        ({"delimiter": "Step"}, "Begin each step with ###.", True),
        ({"delimiter": "Step"}, "Write Step 1, Step 2 and so on.", False),
        ({"steps": "heading"}, "Think first.", True),
        ({"steps": "heading"}, "Put each step under a heading.", False),
        ({"steps": "paragraph"}, None, False),
        ({"steps": "line"}, None, False),
        ({"steps": "line"}, "Begin each step with ###.", True),
        ({"steps": "line"}, "End with #### and the answer.", False),
        ({"steps": "line", "max_steps": 1}, None, True),
    ],
)
def test_a_rule_that_the_prompts_do_not_ask_for_is_named(reward, system, warned):
    problems = [problem(str(i), system=system) for i in range(4)]
    said = list(warn_of_prompts(config_of(**reward), problems))
    assert bool(said) == warned, said
    assert all("reward." in one for one in said)


def test_a_template_may_ask_for_the_steps_and_outcome_rewards_need_none():
    asked = [problem(user=f"{QUESTION}\nUse ### for each step.")]
    assert list(warn_of_prompts(config_of(), asked)) == []
    assert list(warn_of_prompts(config_of("outcome"), [problem()])) == []


@pytest.mark.parametrize(
    ("view", "reward", "grades"),
    [
        ("prefix", {"steps": "paragraph"}, "5, 5, 5 (step by step)"),
        ("prefix", {"steps": "paragraph", "max_steps": 2}, "5, 5 (step by step)"),
        ("prefix", {}, "5, 5 (step by step)"),
        ("outcome", {}, "5;"),
    ],
)
def test_references_are_cut_and_graded_as_rollouts_are(view, reward, grades):
    cfg = config_of(view, **reward)
    seen = grade_references(cfg, cfg.treatment("math"), [problem(str(i)) for i in range(5)])
    assert f"the reference itself is graded {grades}" in seen.found
    assert "3 of 3 references are graded above 3" in seen.found
    assert seen.warnings == ()


@pytest.mark.parametrize("view", ["outcome", "prefix", "step"])
def test_references_that_the_judge_grades_low_are_a_warning_with_the_reply(view):
    cfg = config_of(view, steps="line")
    low = [problem(str(i), reference="By symmetry.\nNo number is here.") for i in range(3)]
    seen = grade_references(cfg, cfg.treatment("math"), low)
    [warning] = seen.warnings
    assert "3 of 3 references are graded 3 or less" in warning
    assert "A reply ends:" in warning and "Score: 3" in warning
    one_of_three = [low[0], problem("1"), problem("2")]
    assert grade_references(cfg, cfg.treatment("math"), one_of_three).warnings == ()


def test_a_judge_that_is_shown_no_reference_may_grade_low():
    cfg = config_of("outcome", judge={"condition": "none"})
    assert grade_references(cfg, cfg.treatment("math"), [problem()]).warnings == ()


class AlwaysFive(BaseHTTPRequestHandler):
    """A judge that likes everything; without `says` it grades only where it is re-asked."""

    says = "It is right.\nScore: 5"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = "5" if "structured_outputs" in body else self.says
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice], "usage": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def a_judge(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield {
            "kind": "server",
            "model": "m",
            "endpoints": [f"http://127.0.0.1:{server.server_port}/v1"],
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OTHERS = [
    problem("a"),
    problem("b", user="What is 2 + 3?", reference="2 + 3 = 5\n\n#### 5"),
    problem("c", user="What is 20 + 30?", reference="20 + 30 = 50\n\n#### 50"),
]


def test_a_judge_that_calls_another_problems_solution_right_is_a_warning():
    with a_judge(AlwaysFive) as judge:
        cfg = config_of("prefix", judge=judge)
        [warning] = grade_references(cfg, cfg.treatment("math"), OTHERS).warnings
        assert "3 of 3 references are graded above 3 for a problem that is not theirs" in warning
        blind = config_of("prefix", judge={**judge, "condition": "none"})
        assert grade_references(blind, blind.treatment("math"), OTHERS).warnings == ()
        same = [problem(str(i)) for i in range(3)]
        assert grade_references(cfg, cfg.treatment("math"), same).warnings == ()


def test_a_judge_that_tells_problems_apart_is_not_warned_of():
    with RuleJudge("numbers") as rule:
        judge = {"kind": "server", "model": rule.model, "endpoints": [rule.url]}
        cfg = config_of("prefix", judge=judge)
        assert grade_references(cfg, cfg.treatment("math"), OTHERS).warnings == ()


def test_grades_that_only_re_asks_gave_are_a_warning():
    class Rambles(AlwaysFive):
        says = "The text has 1 checkpoint."

    with a_judge(Rambles) as judge:
        cfg = config_of("outcome", judge=judge)
        [warning] = grade_references(cfg, cfg.treatment("math"), [problem()]).warnings
    assert "1 of 1 grades came from a re-ask for the grade alone" in warning


def test_a_reference_without_a_grade_ends_the_dry_run():
    cfg = config_of("prefix", judge={"fault_no_grade_rate": 1.0})
    with pytest.raises(JudgeError, match="gave no grade: unparseable: "):
        grade_references(cfg, cfg.treatment("math"), [problem()])


def test_sampled_rollouts_show_what_each_rule_makes_of_them(repo, monkeypatch):
    """The miniature's base writes `###`, and nothing in lines."""
    monkeypatch.chdir(repo)
    changes = ["rollout.engine=transformers", "rollout.max_num_seqs=16", "model.dtype=float32"]
    cfg = config.load("configs/division_process.toml", changes)
    tokenizer, problems = load_tokenizer(cfg.model), load_problems(cfg.data)
    found, warning = sample_steps(cfg, problems, tokenizer, 4)
    assert found.startswith("4 rollouts: ") and "heading 1.0, paragraph 1.0, line 1.0" in found
    assert "reward.steps = 'delimiter', 0 of one step" in found
    assert warning is None

    by_line = config.load("configs/division_process.toml", [*changes, "reward.steps=line"])
    found, warning = sample_steps(by_line, problems, tokenizer, 4)
    assert "1.0 steps each by reward.steps = 'line', 4 of one step" in found
    assert warning is not None and warning.startswith("4 of 4 sampled rollouts have one step")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("judge", "pays for standing still"),
        ("mypkg.rewards:score", None),  # what it gives for no work is not known
        ("verifier", "judge.condition"),
    ],
)
def test_a_reward_of_the_users_own_is_not_warned_of_as_a_judge_would_be(source, said):
    cfg = config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "judge": {"kind": "rules", "rules": "numbers", "condition": "wrong"},
            "reward": {"source": source, "overlong": "none", "steps": "line"},
            "advantage": {"kind": "grpo" if source == "verifier" else "group"},
        }
    )
    warned = [*warnings(cfg), *stalling.warnings(cfg)]
    found = [
        one
        for one in warned
        if "standing still" in one or ("judge.condition" in one and "no effect" in one)
    ]
    assert [one for one in found if said and said in one] == found
    assert bool(found) == (said is not None)
