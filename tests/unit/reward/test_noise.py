"""reward.noise: the judge's scores, corrected for how often it is wrong, from numbers or a file."""

import json
import random

import numpy as np
import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.judge import Verdict
from exprl.learn.advantages import segment_advantages
from exprl.reward.known import Known
from exprl.reward.scorer import Scorer, combine_scores, correct_noise
from exprl.types import Message, Problem, Prompt, Rollout, Segment
from exprl.verify.verifiers import Verdict as Verification
from exprl.verify.verifiers import Verifiers

RATES = {"false_positive": 0.1, "false_negative": 0.2}


def build(noise, *, kind="grpo", view="outcome", reward=None, domains=None):
    return config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d", "domain": "math", "columns": {"answer": "a"}},
            "judge": {"kind": "rules", "view": view},
            "reward": {"noise": noise, **(reward or {})},
            "advantage": {"kind": kind},
            "domains": domains or {},
        }
    )


def rollout(index, finish="stop"):
    ids = np.arange(2, dtype=np.int32)
    return Rollout("p", index, ids, ids, np.zeros(2, np.float32), finish, ids * 0)


def verdict(score):
    grade = None if score is None else 1 + round(4 * score)
    status = "unparseable" if score is None else "ok"
    return Verdict(status, grade, score, "", None, 0, 0, 0, 0, None, 0.0, True, None)


def scored(cfg, judged, *, finishes=None, correct=True, blank=()):
    """Rollouts whose verdicts are known, through the scorer that training uses."""
    problem = Problem("p", Prompt("p", (Message("user", "?"),)), "1", "math")
    scorer = Scorer(
        [problem], {"p": "r"}, None, cfg.reward, cfg.treatment, None, Verifiers(cfg.treatment)
    )
    for i, scores in enumerate(judged):
        segments = tuple(Segment(j, j + 1, "text") for j in range(len(scores)))
        scorer.push(
            rollout(i, (finishes or {}).get(i, "stop")),
            Known(
                segments,
                blank=i in blank,
                verified=Verification(correct, ""),
                verdicts=tuple(map(verdict, scores)),
            ),
        )
    return scorer.finish(lambda done, of: None)


def test_a_judge_that_is_always_right_is_not_corrected():
    assert correct_noise(config.Noise(0.0, 0.0), [0.0, 0.25, None, 1.0]) == (0.0, 0.25, None, 1.0)


def test_a_score_is_corrected_by_the_published_equation():
    low, middle, missing, high = correct_noise(config.Noise(0.1, 0.2), [0.0, 0.5, None, 1.0])
    assert low == pytest.approx(-0.1 / 0.7)
    assert middle == pytest.approx(0.4 / 0.7)
    assert missing is None
    assert high == pytest.approx(0.9 / 0.7)


def test_the_corrected_mean_of_a_noisy_judge_is_the_share_of_right_rollouts():
    rng = random.Random(0)
    noise = config.Noise(0.25, 0.15)
    for share in (0.0, 0.3, 1.0):
        seen = []
        for _ in range(40_000):
            right = rng.random() < share
            says_right = rng.random() < (1 - noise.false_negative if right else 0.25)
            seen.append(noise.correct(float(says_right)))
        assert np.mean(seen) == pytest.approx(share, abs=0.02)


def test_numbers_in_either_form_are_the_same_setting():
    assert build(RATES).reward.noise == build([0.1, 0.2]).reward.noise == config.Noise(0.1, 0.2)
    assert build("none").reward.noise is None


def test_a_judge_that_nearly_guesses_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"1 - FPR - FNR is 0.15, below 0.2.*calibrate again"):
        build([0.5, 0.35])
    assert build([0.5, 0.3]).reward.noise == config.Noise(0.5, 0.3)


def calibration(path, readout="text", **conditions):
    rates = {
        name: {"false_positive": {"value": fpr}, "false_negative": {"value": fnr}}
        for name, (fpr, fnr) in conditions.items()
    }
    path.write_text(json.dumps({"readouts": {readout: rates}}))
    return str(path)


def test_a_file_of_calibrate_gives_the_rates_and_the_config_keeps_the_numbers(tmp_path):
    path = calibration(tmp_path / "calibration.json", right=(0.1, 0.2), none=(0.3, 0.3))
    cfg = build(path)
    assert cfg.reward.noise == config.Noise(0.1, 0.2)
    (tmp_path / "config.toml").write_text(config.to_toml(cfg))
    (tmp_path / "calibration.json").unlink()
    assert config.load(tmp_path / "config.toml") == cfg, "the file is not needed again"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot be read: No such file.*exprl calibrate"),
        (lambda path: path.write_text("no"), "is not JSON"),
        (lambda path: path.write_text("{}"), "no 'readouts'|is not a result of this"),
        (lambda path: calibration(path, none=(0.1, 0.2)), "judge.condition is 'right'.*with none;"),
        (
            lambda path: calibration(path, "direct", right=(0.1, 0.2)),
            "judge.readout is 'text'.*measured with direct; .*--readout text",
        ),
        (lambda path: calibration(path, right=(None, 0.2)), "none of the solutions.*is wrong"),
        (lambda path: calibration(path, right=(0.6, 0.3)), "below 0.2"),
    ],
)
def test_a_file_without_usable_rates_is_named(tmp_path, write, message):
    path = tmp_path / "rates.json"
    write(path)
    with pytest.raises(ConfigError, match=message) as error:
        build(str(path))
    assert "reward.noise = " in str(error.value)


def test_each_domain_has_the_rates_of_its_own_judge(tmp_path):
    path = calibration(tmp_path / "c.json", right=(0.0, 0.4))
    cfg = build([0.1, 0.2], domains={"math": {"noise": path}, "code": {"noise": [0, 0]}})
    assert cfg.treatment("math").noise == config.Noise(0.0, 0.4)
    assert cfg.treatment("code").noise == config.Noise(0.0, 0.0)
    assert cfg.treatment("other").noise == config.Noise(0.1, 0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": {"source": "verifier"}}, "asks no judge"),
        ({"reward": {"source": "max"}}, "does not go with source = 'max'"),
        ({"kind": "first_error", "view": "prefix"}, "does not go with advantage 'first_error'"),
        (
            {"domains": {"math": {"source": "verifier", "noise": [0.1, 0.1]}}},
            "domains.math.noise corrects",
        ),
    ],
)
def test_a_correction_that_would_mean_nothing_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build([0.1, 0.2], **settings)


def test_scores_of_the_judge_are_corrected_and_grades_stay():
    cfg = build(RATES)
    [bad, good, lost] = scored(cfg, [[0.0], [1.0], [None]])
    assert (bad.grades, good.grades) == ((1,), (5,))
    assert bad.scores == (pytest.approx(-1 / 7),)
    assert good.scores == (pytest.approx(9 / 7),)
    assert lost.missing and lost.scores == (None,)


def test_what_nobody_judged_is_not_corrected():
    cfg = build(RATES, kind="delta", view="prefix")
    cut, blank = scored(cfg, [[1.0, 1.0], [1.0]], finishes={0: "length"}, blank={1})
    assert cut.scores == (0.0, 0.0), "0 for its length is a fact"
    assert blank.scores == (0.0,), "and so is 0 for nothing at all"


def test_the_verifiers_part_is_not_corrected():
    noise = build(RATES, reward={"source": "weighted", "verifier_weight": 0.25})
    treatment = noise.treatment("math")
    judged = correct_noise(treatment.noise, [1.0])
    assert combine_scores(treatment, judged, True) == (pytest.approx(0.25 + 0.75 * 9 / 7),)
    last = build(RATES, kind="delta", view="prefix")
    last = config.build(
        {**last.model_dump(mode="json", exclude_none=True), "advantage": {"last": "verifier"}}
    )
    [one] = scored(last, [[1.0, 0.0]], correct=True)
    assert one.scores == (pytest.approx(9 / 7), 1.0)


def advantages_of(cfg, judged, **options):
    found = scored(cfg, judged, **options)
    return [list(a) for a in segment_advantages(found, cfg.treatment, cfg.advantage, 8)]


def test_the_correction_scales_delta_and_leaves_grpo_as_it_is():
    plain = advantages_of(build("none", kind="delta", view="prefix"), [[0.25, 0.75]])
    corrected = advantages_of(build(RATES, kind="delta", view="prefix"), [[0.25, 0.75]])
    assert corrected == [pytest.approx([value / 0.7 for value in plain[0]])]
    judged = [[0.0], [0.5], [1.0]]
    assert np.allclose(
        advantages_of(build(RATES), judged), advantages_of(build("none"), judged), atol=1e-5
    )


def test_the_correction_takes_a_wrong_rollout_below_an_overlong_one():
    judged, finishes = [[0.0], [0.0]], {1: "length"}
    wrong, cut = advantages_of(build(RATES, kind="dr_grpo"), judged, finishes=finishes)
    assert wrong == [pytest.approx(-0.5 / 7)] and cut == [pytest.approx(0.5 / 7)]
    same = advantages_of(build("none", kind="dr_grpo"), judged, finishes=finishes)
    assert same == [[0.0], [0.0]]


def test_end_gives_the_last_step_its_corrected_score():
    [[first, last]] = advantages_of(build(RATES, kind="end", view="prefix"), [[1.0, 0.5]])
    assert last == pytest.approx(0.4 / 0.7)
    assert first == pytest.approx(0.5 / 0.7)
