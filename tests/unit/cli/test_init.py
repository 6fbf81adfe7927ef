"""A config for a data file: what is guessed from the rows, what is said, and what is refused."""

import csv
import json

import pytest

from exprl import config
from exprl.cli.guess import Asked
from exprl.cli.init import write_config
from exprl.config.keys import describe
from exprl.data.problems import load_problems
from exprl.errors import ConfigError, DataError

SOLUTION = "She sold 48 / 2 = 24 clips in May. Altogether she sold 48 + 24 = 72 clips, so it is 72."
GSM8K = [
    {"question": f"What is {n} + 1?", "answer": f"{SOLUTION}\n#### {n + 1}"} for n in range(40)
]
GUESS_ALL = Asked()


@pytest.fixture
def init(tmp_path, capsys):
    """Write a config for these rows; returns it with what was printed."""

    def run(rows, asked=GUESS_ALL, endpoints=(), again=False):
        data, out = tmp_path / "data.jsonl", tmp_path / f"out{'-again' * again}.toml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = config.Source(path=str(data))
        write_config(source, out, "examples/tiny/model", endpoints, "someone", asked)
        return config.load(out), capsys.readouterr().out

    return run


def test_one_column_with_hashes_is_reference_and_answer(init):
    cfg, said = init(GSM8K)
    assert cfg.method == "exprl-process"
    assert cfg.data.columns == config.Columns(
        problem="question", reference="answer", answer="answer"
    )
    assert cfg.data.answer_pattern == r"####\s*(.+)"
    assert "40 of 40 rows have a line '#### ...'" in said
    assert "next: exprl train" in said and "exprl doctor data" in said


def test_a_boxed_answer_is_found_in_the_solution_and_ids_are_used_where_they_differ(init):
    rows = [
        {"problem": "p", "solution": f"{SOLUTION} \\boxed{{{n}}}", "id": n, "uuid": "same"}
        for n in range(3)
    ]
    cfg, _ = init(rows)
    assert (cfg.data.columns.reference, cfg.data.columns.answer) == ("solution", "solution")
    assert cfg.data.answer_pattern == "boxed"
    assert cfg.data.columns.id == "id"
    assert cfg.rollout.problems_per_step == 3


@pytest.mark.parametrize(
    ("column", "text"),
    [("solution", r"9*055995+3=503958###\boxed{055995r3}"), ("answer", "3 * 4 = 12\n#### 12")],
)
def test_a_short_solution_is_known_by_its_name_or_by_its_lines(init, column, text):
    cfg, _ = init([{"question": "q", column: text}])
    assert cfg.data.columns.reference == cfg.data.columns.answer == column


def test_a_short_answer_of_its_own_is_taken_before_one_in_the_solution(init):
    rows = [{"prompt": "p", "solution": f"{SOLUTION} \\boxed{{1}}", "final_answer": 1}] * 2
    cfg, _ = init(rows)
    assert (cfg.data.columns.answer, cfg.data.answer_pattern) == ("final_answer", None)


def test_chat_messages_are_seen_and_get_no_system_prompt(init):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "What is 2 + 2?"}]
    cfg, said = init([{"messages": messages, "solution": SOLUTION, "answer": "4"}])
    assert cfg.data.columns.problem == "messages"
    assert cfg.data.system is None
    assert "it holds chat messages" in said


def test_a_chat_that_ends_with_the_assistant_is_refused_with_row_column_and_remedy(init):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    message = r"row 1: column 'messages': the last message is of role 'assistant'.*--reference"
    with pytest.raises(DataError, match=message):
        init([{"messages": chat, "solution": SOLUTION}])


def test_programs_are_known_by_their_entry_point(init):
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def add(a, b):\n",
        "canonical_solution": "    # adds\n" * 10 + "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n" * 3,
        "entry_point": "add",
    }
    cfg, _ = init([row])
    assert (cfg.data.domain, cfg.method) == ("code", "exprl-outcome")
    assert (cfg.data.columns.answer, cfg.data.columns.setup) == ("test", "prompt")


def verl(number, solution=SOLUTION):
    question = f"What is {number} + {number}?"
    return {
        "data_source": "here",
        "ability": "math",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": str(2 * number)},
        "extra_info": {"index": number, "question": question, "solution": solution},
    }


def test_the_published_codes_own_schema_is_known_by_its_nested_columns(init):
    cfg, said = init([verl(1), verl(2), verl(3, None)])
    assert cfg.data.columns == config.Columns(
        problem="prompt",
        reference="extra_info.solution",
        answer="reward_model.ground_truth",
        domain="ability",
    )
    assert cfg.method == "exprl-process" and cfg.data.system is None
    assert "1 of 3 rows have nothing in 'extra_info.solution'" in said
    assert 'data.missing_reference = "drop"' in said


def test_a_column_of_domains_that_name_no_verifier_is_left_alone(init):
    cfg, _ = init([verl(1) | {"ability": "Algebra"}])
    assert cfg.data.columns.domain is None


def test_what_models_wrote_in_a_nested_column_is_no_reference(init):
    written = {"solution": SOLUTION, "is_correct": False}
    rows = [{"question": "q", "ground_truth": f"{SOLUTION}\nA: 72", "small_model": written}]
    cfg, _ = init(rows)
    assert cfg.data.columns.reference == cfg.data.columns.answer == "ground_truth"
    assert load_problems(cfg.data)[0].answer == "72"


@pytest.mark.parametrize("before", ["Body", "context", "passage"])
def test_a_text_before_the_question_belongs_to_the_problem(init, before):
    rows = [{before: f"Ann has {n} pens.", "Question": "How many?", "Answer": n} for n in (1, 2)]
    cfg, _ = init(rows)
    assert cfg.data.columns.problem == f"{{{before}}} {{Question}}"
    assert load_problems(cfg.data)[0].question == "Ann has 1 pens. How many?"
    cfg, _ = init([row | {before: None} for row in rows], again=True)
    assert cfg.data.columns.problem == "Question"


def test_an_answer_with_its_unit_in_brackets_is_taken_without_it(init):
    cfg, _ = init([{"Body": "b", "Question": "q", "Answer": f"{n} (apples)"} for n in (7, 12)])
    assert [p.answer for p in load_problems(cfg.data)] == ["7", "12"]


def test_a_list_of_solutions_is_a_reference(init):
    rows = [{"question": "q", "solution": [SOLUTION, f"{SOLUTION} 72."], "final_answer": ["72"]}]
    cfg, _ = init(rows)
    assert (cfg.data.columns.reference, cfg.data.columns.answer) == ("solution", "final_answer")
    assert len(load_problems(cfg.data)[0].alternatives) == 1


def test_columns_that_were_named_may_be_nested_or_several(init):
    rows = [{"a": {"b": "What", "c": "is it?"}, "d": {"e": SOLUTION}}]
    cfg, _ = init(rows, Asked(problem="{a.b} {a.c}", reference="d.e", answer="none"))
    assert load_problems(cfg.data)[0].question == "What is it?"
    with pytest.raises(DataError, match=r"no column 'a.x' \(--problem\); its columns are a.b, a.c"):
        init(rows, Asked(problem="{a.x}"), again=True)


def test_answers_alone_are_trained_on_by_the_verifier(init):
    cfg, said = init([{"question": "What is 2 + 2?", "answer": 4}])
    assert (cfg.method, cfg.data.columns.reference) == ("sparse-grpo", None)
    assert "no reference solutions were found" in said


def test_references_alone_leave_the_answer_open_and_say_so(init):
    cfg, said = init([{"question": "Why?", "solution": SOLUTION}])
    assert (cfg.method, cfg.data.columns.answer) == ("exprl-process", None)
    assert "no final answers were found" in said


def test_a_row_that_does_not_fit_is_named(init):
    cfg, said = init([*GSM8K, {"question": "q", "answer": SOLUTION}])
    assert cfg.data.answer_pattern == r"####\s*(.+)"
    assert "training will stop at this row" in said
    assert "row 41: column 'answer'" in said


def test_a_column_that_was_named_is_not_guessed(init):
    rows = [{"text": "What is 2 + 2?", "worked": SOLUTION, "solution": "no"}]
    cfg, _ = init(rows, Asked(problem="text", reference="worked", answer="none"))
    assert (cfg.data.columns.problem, cfg.data.columns.reference) == ("text", "worked")
    assert cfg.data.columns.answer is None


@pytest.mark.parametrize(
    ("rows", "asked", "message"),
    [
        ([{"text": "x"}], Asked(), "none of its columns text is called like a problem.*--problem"),
        ([{"problem": "x"}], Asked(), "neither a reference solution nor.*--reference or --answer"),
        ([{"problem": "x"}], Asked(answer="y"), r"no column 'y' \(--answer\); its columns are pro"),
        ([], Asked(), "holds no rows"),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_the_option_that_helps(init, rows, asked, message):
    with pytest.raises(DataError, match=message):
        init(rows, asked)


def test_a_judge_server_that_is_named_is_the_judge(init):
    cfg, said = init(GSM8K, endpoints=["http://127.0.0.1:8001/v1"])
    assert (cfg.judge.kind, cfg.judge.model) == ("server", "someone")
    assert "no judge server" not in said


def test_every_key_is_explained_in_the_words_of_the_config(init, tmp_path):
    init(GSM8K)
    text = (tmp_path / "out.toml").read_text()
    plain = " ".join(text.replace("\n# ", " ").split())
    section, keys = "", []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif line and not line.startswith("#"):
            keys.append(section + line.split(" = ")[0])
    assert "data.columns.problem" in keys and "train.steps" in keys
    for key in keys:
        assert " ".join(describe(key).split()) in plain, key


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "mine.toml").write_text("years of tuning")
    with pytest.raises(ConfigError, match="exists and is not replaced"):
        write_config(config.Source(path="x.jsonl"), tmp_path / "mine.toml", "m", (), "", Asked())


def test_csv_and_parquet_files_are_looked_at_too(tmp_path):
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(GSM8K), tmp_path / "data.parquet")
    with (tmp_path / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("question", "answer"))
        writer.writeheader()
        writer.writerows(GSM8K)
    written = []
    for ending in ("csv", "parquet"):
        source = config.Source(path=str(tmp_path / f"data.{ending}"))
        write_config(source, tmp_path / f"{ending}.toml", "m", (), "", Asked())
        written.append(config.load(tmp_path / f"{ending}.toml").data.columns)
    assert written[0] == written[1]
    assert written[0].reference == "answer"


def test_the_config_passes_the_dry_run_which_names_the_rows_left_out(exprl, tmp_path):
    data, out = tmp_path / "train.jsonl", tmp_path / "first.toml"
    rows = [*GSM8K, {**GSM8K[0], "question": "long " * 600}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = exprl("init", str(data), "--out", str(out), "--model", "examples/tiny/model")
    assert result.returncode == 0, result.stderr
    shorter = "rollout.max_prompt_tokens=1024"
    result = exprl("train", str(out), f"run_dir={tmp_path / 'run'}", shorter, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "40 problems" in result.stdout
    said = " ".join(result.stdout.split())
    assert "1 of 41 rows are left out: their prompt has more tokens than" in said
    assert "(first id: '41')" in said
    _, _, prompts = result.stdout.partition("as the policy reads it")
    policy, _, judge = prompts.partition("what the judge reads about the reference of problem 1")
    question, solution = (GSM8K[0][key].splitlines()[0] for key in ("question", "answer"))
    assert "| <|system|>" in policy and f"<|user|>{question}<|end|>" in policy
    assert solution not in policy.partition("model   ")[0]
    assert question in judge and solution in judge and "Score:" in judge
    assert "ready: nothing was trained or written" in result.stdout
