"""The notebook-style example of the guides runs as it stands."""

import json
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "grade_gsm8k.py"


def test_answers_are_graded_cell_by_cell(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{a}/{result}",
            "problem": f"What is {a} + 5?",
            "reference": f"Add 5: {a} + 5 = {a + 5}\n#### {a + 5}",
            "trace": f"It is {result}.\n#### {result}",
            "is_correct": result == a + 5,
        }
        for a in (2, 30, 700)
        for result in (a + 5, a + 6)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, GUIDE, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "6 answers, 3 of them right" in done.stdout
    assert " right: misplacement rate 0.0%, 0 missing" in done.stdout
    assert " wrong: misplacement rate 50.0%, 0 missing" in done.stdout
