"""How far a judge can be believed: hand cases, the whole command with a rule judge, refusals."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from exprl import config
from exprl.errors import ConfigError, DataError, JudgeError
from exprl.judge import JudgeSettings, Verdict, split
from exprl.study import calibrate, calibrate_command, continuations, grade, solutions, targets
from exprl.study.calibrate_command import Request
from exprl.study.solutions import Solution
from exprl.types import Rollout
from exprl.verify.verifiers import Verifiers

NOBODY = JudgeSettings((), "")


def verdict(grade, status="ok"):
    score = None if grade is None else (grade - 1) / 4
    return Verdict(
        status if grade else "timeout", grade, score, "", None, 0, 0, 0, 1, None, 0.0, False, None
    )


def solution(problem, correct):
    return Solution("i", problem, problem, "r", ("t",), "math", correct, "stop")


def summary(*rows):
    """Rows of (problem, correct, grade)."""
    found = [solution(p, c) for p, c, _ in rows]
    return calibrate.summarize(found, [verdict(g) for *_, g in rows], "right")


def test_rates_and_histograms_by_hand():
    result = summary(
        ("a", True, 5), ("a", True, 3), ("a", False, 4), ("b", False, 1), ("b", False, 2),
        ("b", True, 4), ("b", True, None), ("b", False, None), ("b", False, None),
    )  # fmt: skip
    assert result.right == (0, 0, 1, 1, 1)
    assert result.wrong == (1, 1, 0, 1, 0)
    assert (result.right_missing, result.wrong_missing) == (1, 2)
    assert result.missing_rate == pytest.approx(3 / 9)
    assert result.false_positive.value == pytest.approx(1 / 3)
    assert result.false_negative.value == pytest.approx(1 / 3)
    assert result.misplacement.value == pytest.approx(1 / 3)
    assert result.auc.value == pytest.approx((3 + 2 + 2.5) / 9)  # 5, 3, 4 against 4, 1, 2
    assert result.statuses == {"ok": 6, "timeout": 3}
    assert result.misplacement.low <= 1 / 3 <= result.misplacement.high


def test_a_missing_grade_is_in_no_rate():
    rows = [("a", True, 5), ("b", False, 1)]
    full, gaps = summary(*rows), summary(*rows, ("a", True, None), ("b", False, None))
    assert full.misplacement.value == gaps.misplacement.value == 0.0
    assert full.auc.value == gaps.auc.value == 1.0


def test_without_wrong_solutions_there_is_no_rate_and_the_json_says_null():
    result = summary(("a", True, 5), ("b", True, 2))
    assert math.isnan(result.misplacement.value)
    assert result.false_negative.value == 0.5
    tree = calibrate.to_json(result)
    assert tree["misplacement"]["value"] is None
    json.dumps(tree, allow_nan=False)


def test_the_interval_is_over_problems_not_over_solutions():
    """40 copies of one solution say no more than one."""
    few = summary(*[(str(i), False, 5 if i % 2 else 1) for i in range(8)], ("x", True, 5))
    many = summary(
        *[(str(i), False, 5 if i % 2 else 1) for i in range(8) for _ in range(40)],
        *[("x", True, 5)] * 40,
    )
    assert many.false_positive == few.false_positive
    assert few.false_positive.high - few.false_positive.low > 0.3


def test_agreement_counts_pairs_and_leaves_missing_grades_out():
    result = calibrate.summarize_agreement(
        np.array([[5, 5, 5], [1, 1, np.nan], [5, np.nan, np.nan]])
    )
    assert (result.solutions, result.repeats, result.missing) == (3, 3, 3)
    assert result.exact == 1.0
    assert result.alpha == 1.0
    assert result.chance == pytest.approx((4 / 6) ** 2 + (2 / 6) ** 2)


def test_the_wrong_reference_is_another_text_also_where_problems_share_a_reference():
    found = [
        replace(solution(problem, True), reference=reference)
        for problem, reference in ("ax", "ax", "bx", "cy", "dz", "ez")
    ]
    right = grade.make_items(found, "right")
    wrong = grade.make_items(found, "wrong", seed=1)
    assert all(a.reference != b.reference for a, b in zip(right, wrong, strict=True))
    assert wrong[0].reference == wrong[1].reference, "one for each problem"
    assert wrong != grade.make_items(found, "wrong", seed=2)
    assert {item.reference for item in grade.make_items(found, "none")} == {None}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": f"{q}/{i}", "problem": f"What is {q} + 1?", "reference": f"{q} + 1 = {q + 1}",
     "trace": f"It is {a}.\n#### {a}", "correct": a == q + 1}
    for q in (2, 30, 700)
    for i, a in enumerate((q + 1, q + 2))
]  # fmt: skip


def test_a_file_is_calibrated_under_all_conditions_and_the_ledger_answers_the_second_time(
    tmp_path, capsys
):
    source = write(tmp_path / "in.jsonl", [*ROWS, {**ROWS[0], "id": "x", "correct": None}])
    request = Request(source, tmp_path / "out", NOBODY, rules="numbers", repeats=2)
    tree = calibrate_command.command(request)
    right, wrong = tree["conditions"]["right"], tree["conditions"]["wrong"]
    assert right["misplacement"]["value"] == 0.0
    assert right["auc"]["value"] == 1.0
    assert wrong["misplacement"]["value"] == 0.5, "with a wrong reference the rule knows nothing"
    assert tree["solutions"] == 6 and tree["unknown_truth"] == 1
    assert tree["agreement"]["exact"] == 1.0
    assert tree["beginnings"] is None
    out = capsys.readouterr().out
    assert "misplacement" in out and "temperature 0" in out
    assert "It tells right from wrong: AUC 1.00 [1.00, 1.00] with the right reference" in out
    assert [finding["name"] for finding in tree["findings"]] == ["usable"]
    assert json.loads((tmp_path / "out/calibration.json").read_text()) == tree
    assert (tmp_path / "out/calibration.png").read_bytes().startswith(b"\x89PNG")
    size = sum(p.stat().st_size for p in (tmp_path / "out/ledger").rglob("*"))
    again = calibrate_command.command(request)
    assert forget_ledger(again) == forget_ledger(tree)
    spent = [read["spent"] for read in (right, again["conditions"]["right"])]
    assert [s["from_ledger"] for s in spent] == [0, 6]
    assert spent[0]["seconds"] > 0 and spent[1]["seconds"] is None
    assert sum(p.stat().st_size for p in (tmp_path / "out/ledger").rglob("*")) == size


def forget_ledger(tree):
    """A result without what another run finds in the ledger."""
    gone = ("from_ledger", "seconds")
    match tree:
        case dict():
            return {key: forget_ledger(below) for key, below in tree.items() if key not in gone}
        case list():
            return [forget_ledger(below) for below in tree]
        case _:
            return tree


def test_readouts_are_compared_side_by_side_with_what_they_cost(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS)
    request = Request(
        source,
        tmp_path / "out",
        NOBODY,
        rules="numbers",
        view="prefix",
        conditions=("right", "none"),
        readouts=("text", "expected", "direct"),
    )
    tree = calibrate_command.command(request)
    readouts = tree["readouts"]
    assert list(readouts) == ["text", "expected", "direct"] and tree["failed"] == {}
    assert tree["conditions"] == readouts["text"]
    for name, conditions in readouts.items():
        assert conditions["right"]["readout"] == name
        assert conditions["right"]["misplacement"]["value"] == 0.0
        assert conditions["none"]["auc"]["value"] == 0.5
    text, direct = (readouts[name]["right"]["spent"] for name in ("text", "direct"))
    # Two steps each.
    assert text["requests"] == direct["requests"] == direct["completion_tokens"] == 12
    assert text["completion_tokens"] > 10 * direct["completion_tokens"]
    assert direct["prompt_tokens"] < text["prompt_tokens"], "its instruction is shorter"
    assert "Readouts side by side" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="measure one"):
        calibrate_command.command(replace(request, repeats=2))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"problem": "p", "trace": 3}], {}, "row 1: field 'trace' must be text, not a number"),
        ([{"problem": "p", "trace": "t", "correct": "yes"}], {}, "must be true, false or null"),
        ([{"problem": "p", "trace": "t"}], {}, "none ended by itself with a known truth"),
        ([], {}, "holds no solution"),
        ([{**ROWS[0], "reference": None}], {}, "has no reference"),
        (ROWS[:2], {"conditions": ("wrong",)}, "at least two problems"),
        (ROWS, {"steps": "0-3"}, "--steps goes with the folder of a run"),
        (ROWS, {"continuations": 2}, "needs a run folder"),
        (ROWS, {"domain": "code"}, "the solutions have ..math.."),
    ],
)
def test_what_cannot_be_calibrated_is_refused(rows, changes, message, tmp_path):
    source = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match=message):
        calibrate_command.command(
            Request(source, tmp_path / "o", NOBODY, **{"rules": "numbers", **changes})
        )


def test_a_judge_that_grades_nothing_is_an_error_with_its_reason(tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    nobody = JudgeSettings(("http://127.0.0.1:9/v1",), "m", attempts=1)
    with pytest.raises(JudgeError, match=r"graded none of the .* solutions .*refused"):
        calibrate_command.command(Request(source, tmp_path / "o", nobody))


def test_a_file_without_a_judge_asks_for_one(tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ConfigError, match="--endpoint URL"):
        calibrate_command.command(Request(source, tmp_path / "o", NOBODY))
    with pytest.raises(ConfigError, match="needs --model"):
        calibrate_command.command(Request(source, tmp_path / "o", JudgeSettings(("http://x",), "")))


def a_run(tmp_path):
    """A run folder with four recorded rollouts of two divisions."""
    problems = [("a", "5)17=", "03r2"), ("b", "4)13=", "03r1")]
    write(
        tmp_path / "train.jsonl",
        [
            {"id": i, "problem": p, "reference": rf"\boxed{{{a}}}", "answer": a}
            for i, p, a in problems
        ],
    )
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    tree = {
        "model": {"path": "m"},
        "judge": {"kind": "rules", "rules": "division"},
        "data": {
            "path": str(tmp_path / "train.jsonl"), "domain": "division", "columns": {"id": "id"},
        },
        "domains": {"division": {"verifier": "exact"}},
    }  # fmt: skip
    (run / "config.toml").write_text(config.to_toml(config.build(tree)))
    texts = [
        ("a", r"01/5=0r1###17/5=3r2###\boxed{03r2}", True, "stop"),
        ("a", r"01/5=0r1###17/5=2r7###\boxed{02r7}", False, "stop"),
        ("b", r"01/4=0r1###13/4=3r1###\boxed{03r1}", True, "stop"),
        ("b", "01/4=0r1###13/4=", False, "length"),
    ]
    rows = []
    for i, (problem, text, correct, finish) in enumerate(texts):
        segments = list(split(text))
        ends = np.cumsum([len(s) for s in segments]).tolist()
        rows.append(
            {"problem_id": problem, "index": i, "finish_reason": finish, "segments": segments,
             "segment_end": ends, "correct": correct, "token_ids": [ord(c) for c in text]}
        )  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), run / "rollouts/step-00003.parquet")
    return run


def test_a_run_brings_solutions_and_judge(tmp_path):
    run = a_run(tmp_path)
    tree = calibrate_command.command(
        Request(
            run, calibrate_command.choose_out(run), NOBODY, conditions=("right",), view="prefix"
        )
    )
    assert tree["conditions"]["right"]["misplacement"]["value"] == 0.0
    assert tree["overlong"] == 1
    assert (run / "calibration/calibration.json").exists()
    with pytest.raises(DataError, match=r"--steps 4-9: .* has steps 3-3"):
        solutions.read(run, steps="4-9")
    with pytest.raises(DataError, match="such as 12 or 1-10"):
        solutions.read(run, steps="last")


class Continuer:
    """Right from every beginning that has not slipped, but for the continuations it crashes."""

    def sample_continuations(self, beginnings, n, seed, temperature, max_response_tokens):
        for name, prompt, tokens in beginnings:
            begun = "".join(map(chr, tokens))
            good = "2r7" not in begun
            answer = {"a": "03r2", "b": "03r1"}[prompt.problem_id] if good else "9r9"
            for i in range(n):
                ids = np.array([ord(c) for c in rf"###\boxed{{{answer}}}"], dtype=np.int32)
                finish = "failed" if i == 0 else "stop"
                yield Rollout(name, i, tokens, ids, np.zeros(len(ids)), finish, np.zeros_like(ids))


def test_grades_of_beginnings_are_held_against_the_success_of_continuations(tmp_path):
    run = a_run(tmp_path)
    with calibrate_command._open_judge(
        Request(run, tmp_path / "o", NOBODY), {"division"}
    ) as settings:
        result = continuations.measure(
            [s for s in solutions.read(run) if s.finish_reason == "stop"],
            settings,
            Continuer(),
            limit=100,
            n=3,
            seed=0,
            temperature=1.0,
            max_response_tokens=96,
            decode=lambda ids: "".join(map(chr, ids)),
            verifiers=Verifiers(targets.load_config(run).treatment),
        )
    assert len(result.beginnings) == 6  # two of each solution
    slipped = [b for b in result.beginnings if b.right == 0]
    assert [(b.step, b.n, b.grade) for b in slipped] == [(2, 2, 1)]
    assert all(b.right == b.n == 2 for b in result.beginnings if b not in slipped)
    assert result.spearman.value == pytest.approx(1.0)
    assert result.missing == 0
    assert result.success_by_grade[0] == 0.0 and result.success_by_grade[4] == 1.0


def test_beginnings_without_grade_or_continuation_are_counted_and_left_out():
    def beginning(grade, n, right, problem="p"):
        score = None if grade is None else (grade - 1) / 4
        return continuations.Beginning("s", problem, 1, grade, score, n, right)

    result = continuations.summarize(
        [beginning(5, 4, 4), beginning(1, 4, 0, "q"), beginning(None, 4, 4), beginning(1, 0, 0)], 4
    )
    assert result.missing == 2
    assert result.pearson.value == pytest.approx(1.0)
    nothing = continuations.summarize([beginning(None, 4, 4)], 4)
    assert math.isnan(nothing.spearman.value)
    json.dumps(calibrate.to_json(nothing), allow_nan=False)


def test_drawing_is_repeatable_and_without_replacement(tmp_path):
    read = solutions.read(write(tmp_path / "in.jsonl", ROWS))
    drawn = [s.id for s in solutions.draw(read, 4, 1)]
    assert drawn == [s.id for s in solutions.draw(read, 4, 1)]
    assert len(set(drawn)) == 4
    assert len(solutions.draw(read, None, 1)) == len(read)


def test_a_line_is_read_as_the_judges_command_reads_it(tmp_path):
    row = {"id": 7, "problem_id": 8, "problem": "p", "reference": " ", "trace": "a###b", "x": 1}
    [one, two] = solutions.read(write(tmp_path / "in.jsonl", [row, {"problem": "p", "trace": ""}]))
    assert (one.id, one.problem_id, one.reference, one.segments) == ("7", "8", None, ("a", "###b"))
    assert (two.id, two.problem_id, two.domain, two.finish_reason) == ("2", "p", "math", "stop")
