"""From files to Problems: what is read, what is refused and with which words."""

import csv
import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from exprl import config
from exprl.data import mixture
from exprl.data.problems import (
    draw_wrong_references,
    load_problems,
    require_answers,
    require_references,
)
from exprl.errors import DataError
from exprl.types import Message, Problem, Prompt, ReferenceProblem

ROWS = [
    {"problem": "5)106973=", "reference": "5*021394+3=106973", "answer": "021394r3"},
    {"problem": "What is {x} if x = 2?", "reference": "x is 2.", "answer": "007"},
    {"problem": "Which day?", "reference": "New Year.", "answer": "2020-01-01"},
]


def settings(path: Path | str, **keys: object) -> config.Data:
    return config.Data.model_validate({"path": str(path), **keys})


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_as(ending: str, folder: Path) -> Path:
    path = folder / f"rows{ending}"
    match ending:
        case ".jsonl":
            return write_jsonl(path, list(ROWS))
        case ".jsonl.gz":
            with gzip.open(path, "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in ROWS)
        case ".json":
            path.write_text(json.dumps(ROWS, indent=2))
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(ROWS[0]))
                writer.writeheader()
                writer.writerows(ROWS)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def problem(number: int, reference: str | None) -> ReferenceProblem:
    prompt = Prompt(str(number), (Message("user", "?"),))
    return ReferenceProblem(str(number), prompt, None, "math", reference=reference)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_every_file_kind_gives_the_same_problems_with_answers_as_written(
    ending: str, tmp_path: Path
) -> None:
    problems = load_problems(settings(write_as(ending, tmp_path)))
    assert [p.answer for p in problems] == ["021394r3", "007", "2020-01-01"]
    assert [p.question for p in problems] == [row["problem"] for row in ROWS]
    assert [p.reference for p in problems] == [row["reference"] for row in ROWS]
    assert [p.id for p in problems] == ["1", "2", "3"]
    assert {p.domain for p in problems} == {"math"}


def test_reading_leaves_nothing_in_the_users_folder(tmp_path: Path) -> None:
    path = write_as(".jsonl", tmp_path)
    load_problems(settings(path))
    load_problems(settings(tmp_path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_data_files_is_read_by_split_and_never_stale(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [ROWS[0]])
    write_jsonl(tmp_path / "test.jsonl", [ROWS[1], ROWS[1]])
    assert len(load_problems(settings(tmp_path))) == 1
    assert len(load_problems(settings(tmp_path, split="test"))) == 2
    write_jsonl(tmp_path / "train.jsonl", [{**ROWS[0], "answer": "changed"}])
    assert load_problems(settings(tmp_path))[0].answer == "changed"


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0]])
    assert load_problems(settings(path))[0].answer == "021394r3"
    write_jsonl(path, [{**ROWS[0], "answer": "021394r4"}])
    assert load_problems(settings(path))[0].answer == "021394r4"


def test_columns_are_mapped_and_one_column_can_hold_reference_and_answer(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "gsm.jsonl", [{"question": "3 + 4?", "text": "It is 7.\n#### 7"}])
    columns = {"problem": "question", "reference": "text", "answer": "text"}
    [only] = load_problems(settings(path, columns=columns, answer_pattern=r"####\s*(.+)"))
    assert (only.reference, only.answer) == ("It is 7.\n#### 7", "7")


def test_template_and_system_surround_a_text_and_leave_its_braces_alone(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**ROWS[1], "problem": "{0} {problem} {x!r} {"}])
    [only] = load_problems(
        settings(path, system="Be brief.", template="Solve {}: {problem} \\boxed{}")
    )
    assert only.prompt.messages == (
        Message("system", "Be brief."),
        Message("user", "Solve {}: {0} {problem} {x!r} { \\boxed{}"),
    )


def test_a_chat_stays_as_it_is_and_its_own_system_message_wins(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    own = [{"role": "system", "content": "Mine."}, *chat]
    path = write_jsonl(tmp_path / "a.jsonl", [{**ROWS[0], "problem": c} for c in (chat, own)])
    first, second = load_problems(settings(path, system="Yours."))
    assert first.prompt.messages == (Message("system", "Yours."), Message("user", "Hi"))
    assert second.prompt.messages == (Message("system", "Mine."), Message("user", "Hi"))
    with pytest.raises(DataError, match=r"row 1: column 'problem': holds chat messages"):
        load_problems(settings(path, template="Q: {problem}"))


def test_the_prompt_holds_neither_reference_nor_answer(tmp_path: Path) -> None:
    for row in load_problems(settings(write_as(".jsonl", tmp_path))):
        assert row.reference is not None and row.answer is not None
        assert row.reference not in repr(row.prompt) and row.answer not in repr(row.prompt)


def test_numbers_become_their_digits_and_gaps_become_none(tmp_path: Path) -> None:
    answers = [72, 72.0, 0.5, None, "", "  ", float("nan")]
    path = write_jsonl(tmp_path / "a.jsonl", [{**ROWS[0], "answer": a} for a in answers])
    problems = load_problems(settings(path))
    assert [p.answer for p in problems] == ["72", "72", "0.5", None, None, None, None]


def test_an_empty_reference_is_none(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "reference": r} for r in ("", " \n", None, "x")]
    problems = load_problems(settings(write_jsonl(tmp_path / "a.jsonl", rows)))
    assert [p.reference for p in problems] == [None, None, None, "x"]
    with pytest.raises(
        DataError, match=r"the row with id '1' has no reference.*missing_reference = 'drop'"
    ):
        require_references(problems)
    require_references(problems[3:])


def test_a_missing_answer_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match="the row with id '7' has no final answer"):
        require_answers([problem(7, "r")])


def test_a_problem_without_its_reference_is_of_a_type_that_has_none() -> None:
    before = problem(1, "secret")
    after = before.without_reference()
    assert type(after) is Problem and not hasattr(after, "reference")
    assert (after.id, after.prompt, after.answer) == (before.id, before.prompt, before.answer)
    assert "secret" not in repr(after)


def test_id_and_domain_come_from_their_columns(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "n": 10, "d": "division"}, {**ROWS[1], "n": 11, "d": "math"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    problems = load_problems(settings(path, columns={"id": "n", "domain": "d"}))
    assert [(p.id, p.prompt.problem_id, p.domain) for p in problems] == [
        ("10", "10", "division"),
        ("11", "11", "math"),
    ]


def test_limit_takes_the_first_rows_and_does_not_look_at_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\nnot json\n")
    assert len(load_problems(settings(path, limit=1))) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": None}, "row 2: column 'problem': is empty"),
        ({"problem": "  "}, "row 2: column 'problem': is empty"),
        ({"problem": 3}, "row 2: column 'problem': expected text, found a number"),
        ({"problem": []}, "row 2: column 'problem': the last message must be of role 'user'"),
        ({"problem": ["Hi"]}, "column 'problem': message 1: expected {role, content}, found text"),
        (
            {"problem": [{"role": "root", "content": "Hi"}]},
            "message 1: role 'root' is none of system, user, assistant",
        ),
        (
            {"problem": [{"role": "assistant", "content": "Hi"}]},
            "the last message must be of role 'user'",
        ),
        ({"reference": ["a", 1]}, "row 2: column 'reference': item 2: expected text, found a num"),
        ({"answer": {"a": 1}}, "row 2: column 'answer': expected text or a number, found an obj"),
        ({"answer": True}, "row 2: column 'answer': expected text or a number, found a boolean"),
        ({"answer": "\ud800"}, "row 2: column 'answer': not valid Unicode text"),
    ],
)
def test_a_bad_row_is_named_with_column_and_kind(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], **row}])
    with pytest.raises(DataError) as error:
        load_problems(settings(path))
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_missing_column_names_the_columns_there_and_the_key_to_set(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "?", "solution": "!"}])
    with pytest.raises(DataError) as error:
        load_problems(settings(path, columns={"problem": "question"}))
    text = str(error.value)
    assert "no column 'reference'; its columns are question, solution" in text
    assert "data.columns.reference" in text and "'none'" in text


def test_a_column_set_to_none_is_not_looked_for(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": "?"}])
    [only] = load_problems(settings(path, columns={"reference": None, "answer": None}))
    assert only.reference is None and only.answer is None


def test_duplicate_ids_name_both_rows(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": i} for i in ("a", "b", "a")]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"rows 1 and 3: column 'id': both have the id 'a'"):
        load_problems(settings(path, columns={"id": "id"}))


def test_a_pattern_that_finds_nothing_names_the_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", list(ROWS))
    with pytest.raises(DataError, match=r"row 1: column 'answer': data.answer_pattern"):
        load_problems(settings(path, answer_pattern="#### (.+)"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n \n", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.csv", b"problem,reference,answer\n", "holds no rows"),
        ("a.jsonl", b'{"problem": "x"}\n\n{"problem": \n', "line 3: not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "not valid JSON"),
        (
            "a.jsonl",
            b'{"answer": ' + b"9" * 5000 + b"}",
            "line 1: not valid JSON: Exceeds the limit",
        ),
        ("a.csv", b"problem,problem\nx,y\n", "two columns are called 'problem'"),
        ("a.jsonl", b"1\n", "line 1: expected an object, found a number"),
        ("a.json", b'[{"problem": "x"}, []]', "row 2: expected an object, found a list"),
        ("a.csv", b"problem,answer\nx,1,2\n", "row 1: 3 cells for 2 columns"),
        ("a.csv", b"problem;answer\nx;1\n", "its cells are separated by ';'; write commas"),
        ("a.csv", b"problem, answer\nx, 1\n", "its columns are problem, ' answer'"),
        ("a.csv", b"problem,answer\nx\n", "row 1: 1 cells for 2 columns"),
        ("a.csv", b'problem,answer\n"x,1\n', "not valid CSV"),
        (
            "a.json",
            b'{"version": [1],\n "data": [{"problem": "x"}]}',
            "one object with version, data",
        ),
        ("a.json", b"3", "line 1: expected an object, found a number"),
        ("a.json", b'{"problem": {"0": "x"}, "answer": {"0": "y"}}', "pandas: orient='records'"),
        ("a.parquet", b"PAR1 no", "not a readable parquet file"),
        ("a.jsonl", b'{"problem": "\xff"}', "not UTF-8"),
        ("a.jsonl.gz", b"plain", "not a whole gzip file"),
        ("a.txt", b"x", "cannot read .txt; data.path takes .jsonl, .json, .csv, .parquet"),
    ],
)
def test_an_unusable_file_is_refused_with_its_path(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_problems(settings(path))
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"problem": f"{i}", "reference": "r"}) + "\n" for i in range(2000))
    packed = bytearray(gzip.compress(rows.encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(range(40))
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    table = pa.table({"problem": [f"{i}" for i in range(2000)], "reference": ["r"] * 2000})
    parquet.write_table(table, tmp_path / "a.parquet")
    column = bytearray((tmp_path / "a.parquet").read_bytes())
    column[100:400] = bytes(300)
    (tmp_path / "a.parquet").write_bytes(column)
    for name in ("a.jsonl.gz", "a.parquet"):
        with pytest.raises(DataError, match=name):
            load_problems(settings(tmp_path / name))


def test_a_missing_file_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_problems(settings(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        load_problems(settings("none/rows.csv"))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_texts_that_no_setting_names_are_not_kept_in_memory(ending: str, tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": str(i), "samples": ["x" * 1_000_000]} for i in range(30)]
    path = tmp_path / f"a{ending}"
    if ending == ".jsonl":
        write_jsonl(path, list(rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=1)
    del rows
    tracemalloc.start()
    problems = load_problems(settings(path))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(problems) == 30
    assert kept < 1_000_000 and peak < 40_000_000
    with pytest.raises(DataError, match="its columns are problem, reference, answer, id, samples"):
        load_problems(settings(path, columns={"problem": "question"}))


def draw_indices(count: int, per_step: int, seed: int, step: int) -> list[int]:
    return mixture.draw_from_epochs(count, lambda steps: steps * per_step, seed, step)


@pytest.mark.parametrize("per_step", [1, 3, 7, 10, 16, 40])
def test_every_problem_comes_once_before_any_comes_twice(per_step: int) -> None:
    count, steps = 10, 24
    stream = [i for step in range(steps) for i in draw_indices(count, per_step, 5, step)]
    assert len(stream) == per_step * steps
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize(("count", "per_step"), [(10, 3), (10, 7), (10, 9), (10, 10), (37, 36)])
def test_no_step_holds_a_problem_twice(count: int, per_step: int) -> None:
    for step in range(60):
        indices = draw_indices(count, per_step, 1, step)
        assert len(indices) == len(set(indices)) == per_step


def test_a_step_larger_than_the_data_takes_every_problem_as_often_as_it_can() -> None:
    counts = Counter(draw_indices(3, 8, 0, 0))
    assert sorted(counts.values()) == [2, 3, 3]


def test_epochs_and_seeds_shuffle_differently_and_repeat_exactly() -> None:
    epochs = [tuple(draw_indices(50, 50, seed, step)) for seed in (0, 1) for step in (0, 1)]
    assert len(set(epochs)) == 4
    assert epochs[1] == tuple(draw_indices(50, 50, 0, 1))


def test_every_problem_gets_the_reference_of_another() -> None:
    right = {str(i): f"solution {i}" for i in range(11)}
    wrong = draw_wrong_references(right, seed=3)
    assert wrong.keys() == right.keys() and Counter(wrong.values()) == Counter(right.values())
    assert all(wrong[name] != right[name] for name in right)
    assert wrong == draw_wrong_references(right, seed=3)
    assert wrong != draw_wrong_references(right, seed=4)


@pytest.mark.parametrize("seed", range(20))
def test_a_shared_reference_is_never_given_back_as_the_wrong_one(seed: int) -> None:
    right = {str(i): text for i, text in enumerate("aaabbbbccd" + "e")}
    wrong = draw_wrong_references(right, seed)
    assert all(wrong[name] != right[name] for name in right)


@pytest.mark.parametrize("texts", ["", "a", "aab"])
def test_wrong_references_need_two_different_ones(texts: str) -> None:
    with pytest.raises(DataError, match="no wrong references"):
        draw_wrong_references({str(i): text for i, text in enumerate(texts)}, seed=0)


GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "train.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason=f"the real GSM8K is not at {GSM8K}")
def test_gsm8k_is_read_whole() -> None:
    columns = {"problem": "question", "reference": "answer"}
    problems = load_problems(settings(GSM8K, columns=columns, answer_pattern=r"####\s*(.+)"))
    assert len(problems) == 7473
    assert problems[0].answer == "72"
    require_answers(problems)
    require_references(problems)
