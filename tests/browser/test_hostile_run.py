"""The hostile run is what tests take it for: graded, hostile, and in the files of a real run."""

from hostile import LONG_LINE, SCRIPT, STEPS, TRACES
from pyarrow import parquet


def test_its_steps_hold_every_text_and_the_grades_of_a_real_judge(hostile_run):
    files = sorted((hostile_run / "rollouts").iterdir())
    assert len(files) == STEPS
    for file in files:
        rows = parquet.read_table(file).to_pylist()
        assert ["".join(row["segments"]) for row in rows] == [*TRACES, *TRACES]
        last = [row["grades"][-1] for row in rows[:6]]
        assert last == [1, 5, 5, 1, 3, 5]
        assert [row["correct"] for row in rows[:6]] == [True, False, True, False, True, False]
        assert rows[6]["missing"] and rows[6]["grades"] == [None] * 60
        assert [row["injection"] for row in rows].count(True) >= 2
        assert all(row["question"] and row["reference"] for row in rows)
        assert all(key for row in rows[:6] for key in row["ledger_keys"])
    assert any(SCRIPT in row["segments"][0] for row in rows)
    assert any(LONG_LINE in row["segments"][0] for row in rows)
    assert any(hostile_run.glob("ledger/*"))
