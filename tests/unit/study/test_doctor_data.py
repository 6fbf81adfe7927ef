"""`exprl doctor data`: each fault is found, and what is no fault is not."""

import json
import random

import pytest
from typer.testing import CliRunner

from exprl.cli.app import app
from exprl.errors import ConfigError, DataError

THINGS = [
    "apples",
    "pears",
    "marbles",
    "books",
    "coins",
    "shells",
    "stamps",
    "ribbons",
    "lemons",
    "tickets",
]
NAMES = [
    "Ada",
    "Boris",
    "Chen",
    "Dana",
    "Emil",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jana",
    "Kofi",
    "Lena",
]


def make_rows(count=24, seed=0):
    """Rows without a fault; no two have the same numbers."""
    rng, rows = random.Random(seed), []
    for k in range(count):
        name, thing = NAMES[k % len(NAMES)], THINGS[(3 * k) % len(THINGS)]
        a, b = 40 + 3 * k, rng.randint(5, 30)
        problem = (
            f"{name} has {a} {thing} and finds {b} more at the fair. How many {thing} is that?"
        )
        solution = f"{name} starts with {a} {thing} and adds {b} to them.\n{a} + {b} = {a + b}\n"
        solution += f"The answer is {a + b}."
        rows.append({"problem": problem, "solution": solution, "answer": str(a + b)})
    return rows


@pytest.fixture
def run(tmp_path):
    """Write rows to a file and run `exprl doctor`; the result of the command."""

    def run(*arguments, rows=None):
        if rows is not None:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "rows.jsonl").write_text(text)
        places = [str(tmp_path / x) if x.endswith(".jsonl") else x for x in arguments]
        done = CliRunner().invoke(app, ["doctor", *places])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def find(run):
    """The findings about rows: number, fault and proposal."""

    def find(rows, *options):
        said = json.loads(run("data", "rows.jsonl", "--json", *options, rows=rows).stdout)
        return {(one["row"], one["fault"], one["proposal"]) for one in said["findings"]}

    return find


def with_row(number, **changes):
    """The clean rows with changes in row `number`, from 1."""
    rows = make_rows()
    rows[number - 1] = rows[number - 1] | changes
    return rows


def test_of_clean_rows_nothing_is_said_and_the_exit_code_is_0(run):
    done = run("data", "rows.jsonl", rows=make_rows())
    assert done.exit_code == 0 and "no faults found" in done.stdout


def test_a_reference_that_ends_with_another_answer_is_found_with_exit_code_3(run, find):
    rows = with_row(5, answer="7")
    assert find(rows) == {(5, "gold_disagrees", "drop")}
    assert run("data", "rows.jsonl").exit_code == 3
    assert run("data", "rows.jsonl", "--max-faulty", "0.1").exit_code == 0


def test_an_answer_line_that_no_step_comes_to_contradicts_the_steps(find):
    rows = make_rows()
    for row in rows:
        row["solution"] = row["solution"].replace("The answer is ", "#### ").removesuffix(".")
    assert find(rows) == set()
    wrong = rows[3]["solution"].rpartition("#### ")[0] + "#### 999"
    rows[3] |= {"solution": wrong, "answer": "999"}
    assert find(rows) == {(4, "gold_disagrees", "drop")}


def test_an_answer_that_nothing_can_read_is_replaced_by_the_references(find):
    assert find(with_row(2, answer="see figure")) == {(2, "gold_unreadable", "replace")}


@pytest.mark.parametrize(
    ("fault", "proposal", "solution"),
    [
        ("reference_missing", "drop", ""),
        ("reference_missing", "drop", "See the solution manual."),
        ("reference_bare", "keep", "The answer is 51."),
        ("reference_cut", "drop", "Ada starts with 40 apples and adds the"),
        ("reference_cut", "drop", "Ada starts with 40 apples and so on: $\\boxed{5"),
        ("answer_absent", "drop", "Ada starts with 40 apples and adds what she finds."),
    ],
)
def test_references_that_teach_nothing(find, fault, proposal, solution):
    rows = with_row(1, solution=solution)
    if fault == "reference_bare":
        rows[0]["answer"] = "51"
    found = {one for one in find(rows) if one[1] != "unusable"}
    assert found == {(1, fault, proposal)}


def test_references_that_went_round_are_found_with_the_problem_that_they_fit(run, find):
    rows = make_rows(40)
    moved = [rows[i]["solution"] for i in (4, 11, 18, 30)]
    for i, k in zip((4, 11, 18, 30), (1, 2, 3, 0), strict=True):
        rows[i] |= {"solution": moved[k]}
        rows[i]["answer"] = moved[k].split()[-1].rstrip(".")  # so that no answer gives it away
    assert find(rows) == {(i + 1, "reference_foreign", "drop") for i in (4, 11, 18, 30)}
    said = json.loads(run("data", "rows.jsonl", "--json").stdout)["findings"]
    assert [one["reason"] for one in said] == [
        f"fits the problem of row {row} much better" for row in (12, 19, 31, 5)
    ]


def test_a_reference_under_three_problems_belongs_to_one(find):
    rows = make_rows(40)
    for i in (7, 20):
        rows[i]["solution"] = rows[3]["solution"]
    found = find(rows)
    assert {(i + 1, "reference_repeated") for i in (3, 7, 20)} <= {one[:2] for one in found}
    assert (4, "reference_repeated", "keep") in found
    assert (8, "reference_repeated", "drop") in found


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        lambda text: text.upper(),
        lambda text: f"Question 7. {text}",
        lambda text: text.replace("finds", "gets"),
        lambda text: f"Please solve this exercise and show every step of it. {text}",
    ],
)
def test_a_problem_that_stands_there_twice_is_found_in_any_dress(find, edit):
    rows = make_rows()
    rows.append(rows[3] | {"problem": edit(rows[3]["problem"])})
    assert find(rows) == {(25, "duplicate", "drop")}


def test_problems_of_one_template_with_other_numbers_are_no_duplicates(find):
    rows = make_rows()
    for row in rows:
        row["problem"] = row["problem"].replace(row["problem"].split()[0], "Ada")
    assert {one for one in find(rows) if one[1] in ("duplicate", "conflict", "in_test")} == set()


def test_numbers_in_another_order_make_another_problem(find):
    rows = make_rows()
    for red, blue in ((5, 9), (9, 5)):
        problem = f"A bag holds {red} red and {blue} blue balls. How likely is red?"
        solution = f"{red} of {red + blue} balls are red.\nThe answer is {red}/14."
        rows.append({"problem": problem, "solution": solution, "answer": f"{red}/14"})
    assert find(rows) == set()


def test_two_answers_to_one_problem_are_a_conflict_which_the_reference_decides(find):
    rows = make_rows()
    rows.append(rows[3] | {"answer": "1"})
    found = {one for one in find(rows) if one[1] == "conflict"}
    assert found == {(4, "conflict", "keep"), (25, "conflict", "drop")}


def test_a_problem_that_names_its_answer_or_holds_its_solution_gives_it_away(find):
    rows = make_rows()
    rows[1]["problem"] += f" (Answer: {rows[1]['answer']})"
    rows[2]["problem"] += "\n" + rows[2]["solution"]
    given = {one for one in find(rows) if one[1] == "given_away"}
    assert given == {(2, "given_away", "drop"), (3, "given_away", "drop")}


def test_options_that_hold_the_answer_do_not_give_it_away(find):
    rows = with_row(1, problem=make_rows()[0]["problem"] + "\nAnswer: 3, 5 or 7")
    rows[0] |= {"answer": "3", "solution": "Ada counts 40 apples: 1 + 2 = 3.\nThe answer is 3."}
    assert not {one for one in find(rows) if one[1] == "given_away"}


def test_problems_of_the_test_file_are_found(find, tmp_path):
    test = {"problem": make_rows()[6]["problem"].replace("at the fair", "at a fair")}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(test) + "\n")
    assert find(make_rows(), "--test", str(path)) == {(7, "in_test", "drop")}


def test_a_frame_around_every_problem_does_not_make_them_alike(find):
    frame = "Solve the following problem step by step and put the final answer into a box.\n"
    rows = make_rows()
    for task in ("Who wrote Faust?", "Who loved Lotte?"):
        solution = f"{task} It is he, of course, as everybody knows.\nThe answer is Goethe."
        rows.append({"problem": task, "solution": solution, "answer": "Goethe"})
    framed = [row | {"problem": frame + row["problem"]} for row in rows]
    assert not {one for one in find(framed) if one[1] in ("conflict", "duplicate")}


def test_rows_at_which_training_would_stop_are_named_and_the_rest_is_examined(run):
    rows = make_rows()
    rows[1]["problem"] = None
    rows[8]["answer"] = "1"
    said = json.loads(run("data", "rows.jsonl", "--json", rows=rows).stdout)["findings"]
    assert [(one["row"], one["fault"]) for one in said] == [(2, "unusable"), (9, "gold_disagrees")]
    assert "column 'problem'" in said[0]["reason"]


def test_a_column_that_does_not_exist_is_an_error_with_the_columns_that_do(find):
    with pytest.raises(DataError, match=r"no column 'task'.*problem, solution, answer"):
        find(make_rows(), "--column", "problem=task")
    with pytest.raises(ConfigError, match="--column gold=x: write KEY=NAME"):
        find(make_rows(), "--column", "gold=x")


class TestPatch:
    """What is written for review, and what becomes of the data."""

    @pytest.fixture
    def patched(self, run, tmp_path):
        """A patch of rows with three faults; its path."""
        rows = make_rows()
        rows[1]["answer"] = "see figure"
        rows[4]["answer"] = "7"
        rows.append(rows[9])
        run("data", "rows.jsonl", "--patch", "p.jsonl", rows=rows)
        return tmp_path / "p.jsonl"

    def read(self, path):
        return [json.loads(line) for line in path.read_text().splitlines()]

    def test_it_drops_and_replaces_in_a_new_file_and_leaves_the_old_one(
        self, run, patched, tmp_path
    ):
        before = (tmp_path / "rows.jsonl").read_bytes()
        done = run("apply", "p.jsonl", "--out", "new.jsonl")
        assert "23 of 25 rows, 2 dropped, 1 answers replaced" in done.stdout
        rows = make_rows()
        assert self.read(tmp_path / "new.jsonl") == [*rows[:4], *rows[5:]]
        assert (tmp_path / "rows.jsonl").read_bytes() == before

    def test_a_proposal_that_a_reviewer_changed_counts(self, run, patched, tmp_path):
        text = patched.read_text()
        line = next(one for one in text.splitlines() if "gold_disagrees" in one)
        patched.write_text(text.replace(line, line.replace('"drop"', '"keep"')))
        run("apply", "p.jsonl", "--out", "new.jsonl")
        assert self.read(tmp_path / "new.jsonl")[4]["answer"] == "7"

    def test_a_row_that_has_changed_since_is_an_error_and_nothing_is_written(
        self, run, patched, tmp_path
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text(path.read_text().replace('"answer": "7"', '"answer": "8"'))
        with pytest.raises(DataError, match="row 5 has changed"):
            run("apply", "p.jsonl", "--out", "new.jsonl")
        assert not (tmp_path / "new.jsonl").exists()

    def test_rows_that_were_added_since_are_an_error(self, run, patched, tmp_path):
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write(json.dumps(make_rows()[0]) + "\n")
        with pytest.raises(DataError, match=r"has 26 rows, and .* was made for 25"):
            run("apply", "p.jsonl", "--out", "new.jsonl")

    def test_no_file_is_replaced(self, run, patched):
        with pytest.raises(ConfigError, match="exists and is not replaced"):
            run("data", "rows.jsonl", "--patch", "p.jsonl")
        with pytest.raises(ConfigError, match="exists and is not replaced"):
            run("apply", "p.jsonl", "--out", "rows.jsonl")

    def test_an_unknown_proposal_names_its_line(self, run, patched):
        patched.write_text(patched.read_text().replace('"drop"', '"delete"', 1))
        with pytest.raises(DataError, match=r"line 3: .*'delete'"):
            run("apply", "p.jsonl", "--out", "new.jsonl")
