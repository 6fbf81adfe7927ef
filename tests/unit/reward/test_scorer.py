"""From rollouts to scores, through a real rule judge over HTTP: what is missing stays missing."""

import contextlib
import dataclasses
import threading

import numpy as np
import pytest

from exprl import config
from exprl.judge import Judge, JudgeSettings, RuleJudge, Verdict
from exprl.learn.advantages import score_arrays, segment_advantages
from exprl.reward.judges import Judges
from exprl.reward.known import NOTHING, Known
from exprl.reward.scorer import Scorer, combine_scores
from exprl.steps import Splitter
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment
from exprl.verify.verifiers import Verdict as Verification
from exprl.verify.verifiers import Verifiers

QUESTION = "5)106973="
REFERENCE = r"5*021394+3=106973###\boxed{021394r3}"
RIGHT = r"01/5=0r1###10/5=2r0###06/5=1r1###19/5=3r4###47/5=9r2###23/5=4r3###\boxed{021394r3}"
WRONG_THIRD = RIGHT.replace("06/5=1r1", "06/5=2r1")
EOS = "<eos>"  # of the tokenizer in conftest.py


def rollout(tokenizer, text, index, finish="stop", opening=""):
    ids = tokenizer.encode(text + (EOS if finish == "stop" else "")).ids
    return Rollout(
        problem_id="p",
        index=index,
        prompt_ids=np.zeros(1, dtype=np.int32),
        token_ids=np.array(ids, dtype=np.int32),
        generator_logp=np.zeros(len(ids), dtype=np.float32),
        finish_reason=finish,
        versions=np.zeros(len(ids), dtype=np.int32),
        opening=opening,
    )


def score(
    tokenizer,
    rollouts,
    *,
    view="prefix",
    reward=None,
    faults=None,
    advantage=None,
    made=Verifiers,
    thinking=False,
    known=NOTHING,
):
    problem = Problem("p", Prompt("p", (Message("user", QUESTION),)), "021394r3", "division")
    reward = reward or {}
    process = view != "outcome" and reward.get("source", "judge") == "judge"
    cfg = config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d", "domain": "division"},
            "domains": {"division": {"verifier": "exact"}},
            "judge": {"kind": "rules", "view": view},
            "reward": reward,
            "advantage": {"kind": "delta" if process else "grpo", **(advantage or {})},
        }
    )
    with contextlib.ExitStack() as stack:
        judges = None
        if cfg.asks_judge:
            server = stack.enter_context(RuleJudge("division", **(faults or {})))
            settings = JudgeSettings((server.url,), server.model, view=view, show_thinking=thinking)
            judge = stack.enter_context(Judge(settings))
            judges = Judges({(view, None): judge}, lambda domain: (view, None))
        splitter = Splitter(tokenizer.to_str(), cut_thinking=thinking)
        scorer = Scorer(
            [problem],
            {"p": REFERENCE},
            splitter,
            cfg.reward,
            cfg.treatment,
            judges,
            made(cfg.treatment),
        )
        for one in rollouts:
            scorer.push(one, known)
        return scorer.finish(lambda done, of: None)


def test_each_prefix_is_graded_until_the_first_wrong_step(tokenizer):
    [right, wrong] = score(
        tokenizer, [rollout(tokenizer, t, i) for i, t in enumerate((RIGHT, WRONG_THIRD))]
    )
    assert right.grades == (5,) * 7
    assert right.scores == (1.0,) * 7
    assert right.correct is True
    assert wrong.grades == (5, 5, 1, 1, 1, 1, 1)
    assert wrong.scores == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert [s.text for s in wrong.segments][2] == "###06/5=2r1"
    assert not wrong.missing


def test_the_outcome_view_gives_one_score(tokenizer):
    [scored] = score(tokenizer, [rollout(tokenizer, WRONG_THIRD, 0)], view="outcome")
    # two good steps of seven: 1 + floor(4 * 2 / 7) = 2
    assert scored.grades == (2,)
    assert scored.scores == (0.25,)
    assert scored.statuses == ("ok",)


def test_each_grade_has_its_status_and_the_key_of_its_reply(tokenizer):
    [good, again] = score(tokenizer, [rollout(tokenizer, RIGHT, i) for i in range(2)])
    assert good.statuses == ("ok",) * 7
    assert len(set(good.ledger_keys)) == 7
    assert all(len(bytes.fromhex(key)) == 32 for key in good.ledger_keys)
    assert again.ledger_keys == good.ledger_keys, "the same was asked"
    cut = rollout(tokenizer, RIGHT, 0, finish="length")
    [overlong] = score(tokenizer, [cut])
    assert (overlong.statuses, overlong.ledger_keys) == ((None,) * 7, (None,) * 7)


class NoVerifiers(Verifiers):
    """Must not be asked."""

    def is_correct(self, text, problem):
        raise AssertionError(f"asked about {text!r}")


def test_what_is_known_is_not_found_out_again_and_stands_under_the_same_rules(tokenizer):
    cut = [rollout(tokenizer, RIGHT, i, finish) for i, finish in enumerate(["stop", "length"])]
    [asked, overlong] = score(tokenizer, cut)
    segments = (Segment(0, 3, "ab"), Segment(3, 5, ""))  # whatever they hold, nobody looks
    verdict = Verdict("ok", 2, 0.25, "", None, 0, 0, 0, 0, None, 0.0, True, None)
    verified = Verification(False, "as the run has it")
    verdicts = (verdict, verdict._replace(grade=5, score=1.0))
    known = Known(segments, blank=False, verified=verified, verdicts=verdicts)
    # The judge would never give a grade; were it asked, its first score would be missing.
    silent = {"no_grade_rate": 1.0}
    [first, second] = score(tokenizer, cut, known=known, made=NoVerifiers, faults=silent)
    assert (first.segments, first.grades, first.scores) == (segments, (2, 5), (0.25, 1.0))
    assert first.correct is False
    assert (second.grades, second.scores, second.overlong) == ((None, None), (0.0, 0.0), True)
    [blank] = score(
        tokenizer, cut[:1], known=dataclasses.replace(known, blank=True), made=NoVerifiers
    )
    assert (blank.grades, blank.scores) == ((None, None), (0.0, 0.0))
    assert asked.grades == (5,) * 7
    assert overlong.scores == (0.0,) * 7


class MeetingVerifiers(Verifiers):
    """Each verdict waits until as many as there are workers are being given."""

    workers = 4
    meeting = threading.Barrier(4, timeout=60)

    def examine(self, text, problem):
        self.meeting.wait()
        return super().examine(text, problem)


def test_a_verdict_does_not_wait_for_another_one(tokenizer):
    rollouts = [rollout(tokenizer, RIGHT, i) for i in range(8)]
    scored = score(tokenizer, rollouts, reward={"source": "verifier"}, made=MeetingVerifiers)
    assert [s.scores for s in scored] == [(1.0,)] * 8


def test_rollouts_come_back_in_group_order(tokenizer):
    backwards = [rollout(tokenizer, RIGHT, i) for i in reversed(range(5))]
    assert [s.rollout.index for s in score(tokenizer, backwards)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("overlong", "grades", "scores", "masked"),
    [
        ("zero", (None,) * 2, (0.0,) * 2, False),
        ("mask", (None,) * 2, (0.0,) * 2, True),
        ("none", (5, 5), (1.0, 1.0), False),
    ],
)
def test_an_overlong_rollout(tokenizer, overlong, grades, scores, masked):
    cut = rollout(tokenizer, "01/5=0r1###10/5=2r0", 0, finish="length")
    [scored] = score(tokenizer, [cut], reward={"overlong": overlong})
    assert (scored.grades, scored.scores, scored.masked) == (grades, scores, masked)
    assert not scored.ungraded


def test_a_grade_that_never_comes_leaves_the_rollout_out_and_counted(tokenizer):
    [scored] = score(tokenizer, [rollout(tokenizer, RIGHT, 0)], faults={"no_grade_rate": 1.0})
    assert scored.grades == (None,) * 7
    assert scored.scores == (None,) * 7
    assert scored.missing
    assert scored.ungraded
    assert len(scored.reasons) == 7 and "no line `Score: n`" in scored.reasons[0]
    assert (scored.ungraded_steps, scored.bridged_steps) == (7, 0)
    values, _, _ = score_arrays([scored])
    assert np.isnan(values).all()


def test_published_end_keeps_the_last_grade_of_a_rollout_that_was_cut(tokenizer):
    """The published code subtracts it from scores that count 0."""
    cut = rollout(tokenizer, "01/5=0r1###10/5=2r0###06/5", 0, finish="length")
    published = {"kind": "end", "compat": "published"}
    [kept] = score(tokenizer, [cut], advantage=published)
    assert (kept.grades, kept.scores, kept.overlong) == ((5, 5, 1), (1.0, 1.0, 0.0), True)
    right = rollout(tokenizer, "01/5=0r1###10/5=2r0", 0, finish="length")
    [kept] = score(tokenizer, [right], advantage=published)
    [values] = advantages_of([kept], published)
    assert values.tolist() == [-1.0, -1.0]  # 0 - s_T
    for other, wanted in (
        ({"kind": "end"}, [0.0, 0.0]),
        ({"kind": "delta", "compat": "published"}, [0.0, 0.0]),
    ):
        [zero] = score(tokenizer, [right], advantage=other)
        assert (zero.grades, zero.scores) == ((None,) * 2, (0.0,) * 2)
        assert advantages_of([zero], other)[0].tolist() == wanted


@pytest.mark.parametrize("overlong", ["mask", "none"])
def test_published_end_asks_for_no_grade_that_the_overlong_rule_does_not_need(tokenizer, overlong):
    cut = rollout(tokenizer, "01/5=0r1###10/5=2r0", 0, finish="length")
    published = {"kind": "end", "compat": "published"}
    [scored] = score(tokenizer, [cut], reward={"overlong": overlong}, advantage=published)
    assert not scored.overlong
    if overlong == "mask":
        assert scored.grades == (None,) * 2
    else:  # judged like any other: 1 - 1
        assert advantages_of([scored], published)[0].tolist() == [0.0, 0.0]


def advantages_of(scored, advantage):
    return segment_advantages(
        scored,
        lambda domain: config.Treatment("exact", "judge", 0.5, "prefix", None, advantage["kind"]),
        config.Advantage(**advantage),
        96,
    )


def test_the_verifier_can_give_the_last_score(tokenizer):
    """It calls the wrong chain with a right box right, where the judge does not."""
    [judged] = score(tokenizer, [rollout(tokenizer, WRONG_THIRD, 0)])
    [verified] = score(
        tokenizer, [rollout(tokenizer, WRONG_THIRD, 0)], advantage={"last": "verifier"}
    )
    assert judged.scores == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert verified.scores == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert verified.grades == judged.grades


def test_the_verifiers_last_score_stands_in_for_a_last_grade_that_never_came(tokenizer):
    one = rollout(tokenizer, RIGHT, 0)
    faults = {"no_grade_rate": 1.0}
    [scored] = score(tokenizer, [one], faults=faults, advantage={"last": "verifier"})
    assert scored.scores == (None,) * 6 + (1.0,)
    assert not scored.missing
    assert (scored.ungraded_steps, scored.bridged_steps) == (6, 6)


def test_a_crashed_rollout_is_missing_and_never_judged(tokenizer):
    [scored] = score(tokenizer, [rollout(tokenizer, RIGHT, 0, finish="failed")])
    assert scored.scores == ()
    assert scored.ungraded
    assert "the engine gave no usable tokens" in scored.reasons[0]
    assert scored.correct is None


def test_an_id_that_the_tokenizer_does_not_know_is_a_failed_rollout(tokenizer):
    broken = rollout(tokenizer, RIGHT, 0)
    broken.token_ids[3] = 100_000
    [scored] = score(tokenizer, [broken])
    assert scored.rollout.finish_reason == "failed"
    assert scored.ungraded
    assert "token id that the tokenizer does not know" in scored.reasons[0]


def test_the_verifier_alone_gives_zero_or_one(tokenizer):
    texts = (RIGHT, WRONG_THIRD.replace("021394r3", "022394r3"))
    rollouts = [rollout(tokenizer, text, i) for i, text in enumerate(texts)]
    scored = score(tokenizer, rollouts, reward={"source": "verifier"})
    assert [s.scores for s in scored] == [(1.0,), (0.0,)]


JOINED = [
    # source, judge, verifier, together
    ("judge", 0.25, True, 0.25),
    ("judge", 0.25, None, 0.25),
    ("verifier", 0.25, True, 1.0),
    ("verifier", None, False, 0.0),
    ("verifier", 0.25, None, None),
    ("max", 0.25, True, 1.0),
    ("max", 0.25, False, 0.25),
    ("max", None, True, 1.0),  # no grade could change it
    ("max", None, False, None),
    ("max", 1.0, None, 1.0),  # nor could the verifier
    ("max", 0.75, None, None),
    ("max", None, None, None),
    ("weighted", 0.5, True, 0.7 + 0.15),
    ("weighted", 0.5, False, 0.15),
    ("weighted", None, True, None),
    ("weighted", 0.5, None, None),
]


@pytest.mark.parametrize(("source", "judged", "correct", "expected"), JOINED)
def test_judge_and_verifier_together(source, judged, correct, expected):
    treatment = config.Treatment("math", source, 0.7, "outcome", None, "grpo")
    (found,) = combine_scores(treatment, (judged,), correct)
    assert found == (None if expected is None else pytest.approx(expected))
    # A rollout that was never graded has no verdicts at all.
    if judged is None:
        assert combine_scores(treatment, (), correct) == (found,)


@pytest.mark.parametrize(
    ("weight", "judged", "correct", "expected"),
    [
        (1.0, None, True, 1.0),
        (1.0, None, False, 0.0),
        (1.0, 0.25, None, None),
        (0.0, 0.25, None, 0.25),
        (0.0, 0.25, True, 0.25),
        (0.0, None, True, None),
        (0.001, 0.25, None, None),
        (0.999, None, True, None),
    ],
)
def test_a_part_without_weight_is_not_needed(weight, judged, correct, expected):
    treatment = config.Treatment("math", "weighted", weight, "outcome", None, "grpo")
    assert combine_scores(treatment, (judged,), correct) == (expected,)
    # and nobody asks for it
    assert treatment.judged == (weight < 1.0)
    assert treatment.verified == (weight > 0.0)


def test_execution_and_judge_in_one_run(tokenizer):
    texts = (RIGHT, WRONG_THIRD)  # both end in the right answer
    rollouts = [rollout(tokenizer, text, i) for i, text in enumerate(texts)]
    reward = {"source": "weighted", "verifier_weight": 0.5}
    scored = score(tokenizer, rollouts, view="outcome", reward=reward)
    assert [s.scores for s in scored] == [(1.0,), (0.5 + 0.5 * 0.25,)]
    assert [s.grades for s in scored] == [(5,), (2,)]
    assert {s.domain for s in scored} == {"division"}


def test_a_rollout_without_steps_has_one_segment(tokenizer):
    [scored] = score(tokenizer, [rollout(tokenizer, "no steps here", 0)])
    assert len(scored.segments) == len(scored.scores) == 1


def item(problem_id, index, scores, masked=False):
    one = Rollout(
        problem_id,
        index,
        np.zeros(1, np.int32),
        np.zeros(2, np.int32),
        np.zeros(2, np.float32),
        "stop",
        np.zeros(2, np.int32),
    )
    return Scored(one, (), tuple(None for _ in scores), tuple(scores), None, masked)


def test_score_arrays_mark_what_is_missing_and_keep_the_groups():
    scored = [
        item("a", 0, [0.0, 1.0]),
        item("a", 1, [0.5, None]),
        item("b", 0, []),
        item("b", 1, [0.25], masked=True),
        item("b", 2, [0.75]),
    ]
    scores, seg_off, group_off = score_arrays(scored)
    np.testing.assert_array_equal(scores, [0.0, 1.0, 0.5, np.nan, np.nan, np.nan, 0.75])
    assert seg_off.tolist() == [0, 2, 4, 5, 6, 7]
    assert group_off.tolist() == [0, 2, 5]


THOUGHT = r"01/5=9r9### 06/5=2r1 \boxed{1}"
"""Wrong steps and a wrong answer, which nobody must read."""


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        (f"<think>{THOUGHT}</think>{RIGHT}", ""),
        (f"{THOUGHT}</think>{RIGHT}", "<think>\n"),
        (f"{THOUGHT}</think>{RIGHT}", ""),
    ],
)
def test_neither_judge_nor_verifier_reads_what_was_thought(tokenizer, text, opening):
    one = rollout(tokenizer, text, 0, opening=opening)
    [scored] = score(tokenizer, [one])
    assert scored.grades == (5,) * 7 and scored.correct is True and not scored.blank
    # The tokens of thinking belong to the first step, so that the segments cover all of them.
    first, *_, last = scored.segments
    assert first.text == opening + text[: text.index("</think>") + len("</think>01/5=0r1")]
    assert first.start == 0 and last.end == len(one.token_ids)
    assert scored.text == opening + text
    [shown] = score(tokenizer, [one], thinking=True)
    assert len(shown.segments) == 8 and shown.grades[0] == 1


@pytest.mark.parametrize(("view", "kind"), [("prefix", "delta"), ("outcome", "grpo")])
@pytest.mark.parametrize(
    ("text", "opening"), [("", ""), (" \n", ""), (f"<think>{RIGHT}", ""), (RIGHT, "<think>")]
)
def test_a_rollout_that_shows_nothing_scores_nothing_and_costs_no_request(
    tokenizer, text, opening, view, kind
):
    """Every request would go without a grade here, and leave the rollout out."""
    one = rollout(tokenizer, text, 0, opening=opening)
    [scored] = score(tokenizer, [one], view=view, faults={"no_grade_rate": 1.0})
    assert scored.blank and scored.scores == (0.0,) and scored.grades == (None,)
    assert scored.correct is False
    assert not scored.missing and not scored.ungraded and not scored.reasons


def test_an_overlong_rollout_that_shows_nothing_is_masked_as_others_are(tokenizer):
    one = rollout(tokenizer, f"<think>{RIGHT}", 0, finish="length")
    [masked] = score(tokenizer, [one], reward={"overlong": "mask"})
    assert masked.masked and not masked.missing
    [judged] = score(tokenizer, [one], reward={"overlong": "none"})
    assert not judged.masked and judged.scores == (0.0,)
