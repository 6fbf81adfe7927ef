"""Grade real model answers to GSM8K, cell by cell: `python docs/guides/grade_gsm8k.py DATA`.

`python bench/gsm8k_judge.py SOLUTIONS --items DATA` makes DATA of the model solutions that are part
of GSM8K (example_model_solutions.jsonl). Any JSONL file will do whose lines hold "id", "problem",
"reference", "trace" and the truth, "is_correct".

Cells begin with `# %%`, so editors show this file as a notebook. The judge is the rule judge: no
server and no GPU are needed. For a language model, name its server in `settings`.
"""

# %% The data: problems, references, answers that models wrote, and whether they are right.
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from exprl.judge import JudgeSettings, RuleJudge
from exprl.study import calibrate, grade, solutions

path = Path(sys.argv[1] if len(sys.argv) > 1 else "answers.jsonl")
if not path.exists():
    sys.exit(
        f"{path} is not there; name a JSONL file of answers, see the first lines of {__file__}"
    )
answers = solutions.read(path, label="is_correct")[:500]
print(f"{len(answers)} answers, {sum(bool(answer.correct) for answer in answers)} of them right")

# %% A judge. Any OpenAI-compatible server does: JudgeSettings((url,), model, api_key_env=...).
server = RuleJudge("numbers")
settings = JudgeSettings((server.url,), server.model, view="outcome")

# %% Whole answers against the right reference, none, and another problem's.
for condition in grade.CONDITIONS:
    result, _ = calibrate.calibrate(answers, settings, condition)
    missing = result.right_missing + result.wrong_missing
    print(f"{condition:>6}: misplacement rate {result.misplacement.value:.1%}, {missing} missing")

# %% Where do the grades lie? A missing grade would be None, and counted as such.
verdicts = grade.ask(answers, settings, "right").verdicts
for truth in (True, False):
    pairs = zip(answers, verdicts, strict=True)
    seen = Counter(verdict.grade for answer, verdict in pairs if answer.correct is truth)
    print("right" if truth else "wrong", dict(sorted(seen.items(), key=str)))

# %% Beginnings: is each line of an answer still on a path to the reference's answer?
by_line = []
for answer in answers[:100]:
    parts = tuple(answer.trace.splitlines(keepends=True)) or answer.segments
    by_line.append(answer.item._replace(segments=parts))
for item, result in list(
    zip(by_line, grade.grade(by_line, replace(settings, view="prefix")), strict=True)
)[:3]:
    print()
    for segment, verdict in zip(item.segments, result.verdicts, strict=True):
        print(verdict.grade, segment.rstrip())

# %% The server ends with the process, or here.
server.close()
