"""What the columns of public datasets look like: nested, in parts, several, lists, gaps."""

import csv
import gzip
import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from exprl import config
from exprl.data.problems import load_problems
from exprl.data.references import choose_references, keep_all_rows, tokenize_solutions
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError, DataError

# As the published code's data preparation writes a row.
VERL = {"problem": "prompt", "reference": "extra_info.solution", "domain": "ability"}
VERL |= {"answer": "reward_model.ground_truth"}


def verl(number, **extra):
    return {
        "data_source": "here",
        "ability": "math",
        "prompt": [{"role": "user", "content": f"Double {number}."}],
        "reward_model": {"style": "rule", "ground_truth": str(2 * number)},
        "extra_info": {"index": number, **extra},
    }


def plain(**cells):
    return {"problem": "Which?", "reference": "This one.", "answer": "4", **cells}


@pytest.fixture
def load(tmp_path):
    """Write rows as a file, and read them as problems."""

    def run(rows, columns=None, ending=".jsonl", **keys):
        remarks = keys.pop("remarks", [])
        path = tmp_path / f"rows{ending}"
        match ending:
            case ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            case ".jsonl.gz":
                with gzip.open(path, "wt") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
            case ".json":
                path.write_text(json.dumps(rows))
            case ".parquet":
                parquet.write_table(pa.Table.from_pylist(rows), path)
            case ".csv":
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
        settings = {"path": str(path), "columns": columns or {}, **keys}
        return load_problems(config.Data.model_validate(settings), remarks.append)

    return run


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_a_dot_names_a_key_of_a_nested_column_in_every_kind_of_file(load, ending):
    rows = [verl(3, solution="3 + 3 = 6"), verl(4, solution="4 + 4 = 8")]
    first, second = load(rows, VERL, ending)
    assert (first.question, first.reference, first.answer) == ("Double 3.", "3 + 3 = 6", "6")
    assert (second.reference, second.answer, second.domain) == ("4 + 4 = 8", "8", "math")


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_dot_leads_to_an_empty_cell_where_a_row_lacks_the_key_or_the_column(load, ending):
    rows = [verl(3, solution="3 + 3 = 6"), verl(4), verl(5) | {"extra_info": None}]
    assert [p.reference for p in load(rows, VERL, ending)] == ["3 + 3 = 6", None, None]


def test_a_dot_goes_down_several_levels_and_through_names_that_hold_dots_themselves(load):
    row = plain(a={"b": {"c": "deep"}, "v1.0": {"text": "dotted"}})
    for name, text in {"a.b.c": "deep", "a.v1.0.text": "dotted"}.items():
        [only] = load([row], {"reference": name})
        assert only.reference == text


def test_a_dot_is_a_part_of_the_name_where_a_column_is_called_so_in_any_row(load):
    rows = [plain(**{"a.b": "flat", "a": {"b": "nested"}}), plain(a={"b": "nested"})]
    problems = load(rows, {"reference": "a.b"})
    assert [p.reference for p in problems] == ["flat", None]


def test_a_dot_to_an_unknown_key_is_refused_with_the_keys_that_there_are(load):
    message = r"'extra_info.worked'; 'extra_info' has index, solution; set data.columns.refer"
    with pytest.raises(DataError, match=message):
        load([verl(3, solution="x")], VERL | {"reference": "extra_info.worked"})


def test_a_dot_in_a_name_that_leads_nowhere_is_refused_with_all_columns(load):
    message = "no column 'extra.b'; its columns are data_source, ability, prompt, reward_model"
    with pytest.raises(DataError, match=message):
        load([verl(3)], VERL | {"reference": "extra.b"})


@pytest.mark.parametrize(
    ("cell", "found"),
    [('{"b": 1}', "JSON as text; write it as an object"), ([1], "a list"), (7, "a number")],
)
def test_a_dot_into_something_without_keys_is_refused_by_row_and_column(load, cell, found):
    rows = [plain(a={"b": "x"}), plain(a=cell)]
    message = f"row 2: column 'a': expected an object with the key 'b', found {found}"
    with pytest.raises(DataError, match=message):
        load(rows, {"answer": "a.b"})
    with pytest.raises(DataError, match=message.replace("row 2", "row 1")):
        load(rows[1:], {"answer": "a.b"})


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_an_object_in_place_of_text_is_refused_with_the_names_of_its_keys(load, ending):
    message = "row 1: column 'reward_model': .* reward_model.style, reward_model.ground_truth"
    with pytest.raises(DataError, match=message):
        load([verl(3, solution="s")], VERL | {"answer": "reward_model"}, ending)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"ground_truth": "6"}', "holds an object written as text.*its keys are ground_truth"),
        ("{'ground_truth': '6'}", "holds an object written as text.*its keys are ground_truth"),
        ('[{"role": "user", "content": "q"}]', "holds chat messages written as text"),
        ("[{'role': 'user', 'content': 'q'}]", "holds chat messages written as text"),
        ('["one", "two"]', "holds a list written as text"),
        ('\ufeff{"q": "one"}', "holds an object written as text"),
    ],
)
@pytest.mark.parametrize("column", ["problem", "reference", "answer"])
def test_structures_written_as_text_are_refused_as_json_and_as_python_prints_them(
    load, column, text, message
):
    with pytest.raises(DataError, match=f"row 1: column {column!r}: {message}"):
        load([plain(**{column: text})])


@pytest.mark.parametrize(
    "text",
    [
        "{1, 2, 3}",
        "[0, 1)",
        "[0, 1]",
        "{}",
        "[]",
        r"{\frac{1}{2}}",
        "{x: x > 0}",
        "[a, b]",
        "{",
        "[[",
    ],
)
def test_sets_intervals_and_formulas_are_no_structures(load, text):
    [only] = load([plain(answer=text, problem=text)])
    assert (only.answer, only.question) == (text, text)


def test_json_is_an_answer_like_any_other_where_answers_are_compared_as_written(load):
    [only] = load([plain(answer='{"a": 1}', problem='{"b": 2}')], domain="exact")
    assert (only.answer, only.question) == ('{"a": 1}', '{"b": 2}')
    with pytest.raises(DataError, match="holds chat messages"):
        load([plain(problem='[{"role": "user", "content": "q"}]')], domain="exact")


def test_content_parts_of_text_are_one_text_in_messages_and_in_columns(load):
    parts = [{"type": "text", "text": "Which "}, {"type": "text", "text": "is it?"}]
    chat = [{"role": "system", "content": parts}, {"role": "user", "content": parts}]
    for problem in (chat, parts):
        [only] = load([plain(problem=problem, reference=parts, answer=parts)])
        assert only.question == only.reference == only.answer == "Which is it?"


def test_content_parts_of_parquet_have_empty_fields_of_other_types(load):
    parts = [{"type": "text", "text": "Which?", "image": None}]
    [only] = load([plain(problem=[{"role": "user", "content": parts}])], ending=".parquet")
    assert only.question == "Which?"


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "of type 'image_url'"),
        ({"type": "input_audio", "text": "spoken"}, "of type 'input_audio'"),
        ({"type": "text"}, "of type 'text' and its text is null"),
        ({"type": "text", "text": 3}, "of type 'text' and its text is a number"),
    ],
)
def test_content_parts_of_another_type_are_refused_by_row_message_and_type(load, part, what):
    chat = [{"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}]
    message = f"row 2: column 'problem': message 1: content: content part 2 is {what}"
    with pytest.raises(DataError, match=message):
        load([plain(), plain(problem=chat)])


def test_a_chat_that_the_assistant_ends_is_refused_with_the_remedy(load):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    message = "row 1: .*must be of role 'user', and it is of role 'assistant'.*columns.refere"
    with pytest.raises(DataError, match=message):
        load([plain(problem=chat)])


@pytest.mark.parametrize(
    ("content", "found"),
    [(["a", "b"], "text"), ([{"text": "a"}], "an object with text"), ([], "nothing")],
)
def test_a_chat_whose_content_is_another_list_is_refused_with_what_it_holds(load, content, found):
    chat = [{"role": "user", "content": content}]
    message = f"message 1: content: expected text or .* parts, found a list with {found}"
    with pytest.raises(DataError, match=message):
        load([plain(problem=chat)])


@pytest.mark.parametrize("mark", ["<|im_start|>user\n", "[INST] ", "<start_of_turn>user\n"])
def test_a_chat_that_is_written_out_with_a_template_is_told(load, mark):
    remarks = []
    load([plain(), plain(problem=f"{mark}Which?")], remarks=remarks)
    assert len(remarks) == 1 and "1 of 2 rows hold the marks of a chat template" in remarks[0]


def test_a_chat_with_from_and_value_is_refused_with_the_names_to_give(load):
    with pytest.raises(DataError, match="found an object with from, value; rename from to ro"):
        load([plain(problem=[{"from": "human", "value": "q"}])])


def test_a_chat_as_a_list_of_roles_and_one_of_contents_is_a_chat(load):
    [only] = load([plain(problem={"role": ["system", "user"], "content": ["Be brief.", "Hi"]})])
    assert [(m.role, m.content) for m in only.prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
    ]


SVAMP = plain(Body="Ann has {3} pens, and more.", Question="How many, in {braces}?")


def test_names_in_braces_put_a_problem_together_and_leave_the_braces_of_the_texts_alone(load):
    [only] = load([SVAMP], {"problem": "{Body} { Question }"})
    assert only.question == "Ann has {3} pens, and more. How many, in {braces}?"


def test_names_in_braces_may_be_dotted_and_may_hold_numbers(load):
    [only] = load([plain(a={"b": "Count"}, n=3)], {"problem": "{a.b} to {n}"})
    assert only.question == "Count to 3"


def test_names_in_braces_work_in_the_template_beside_the_problem(load):
    template = (
        "{Body}\n{problem}\nAnswer in \\boxed{} or {{words}}, {1, 2} and x^{2} stay, {{2}} too."
    )
    [only] = load([SVAMP], {"problem": "Question"}, template=template)
    assert only.question == (
        "Ann has {3} pens, and more.\nHow many, in {braces}?\n"
        "Answer in \\boxed{} or {words}, {1, 2} and x^{2} stay, {{2}} too."
    )


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        ({"problem": "{Body} {Frage}"}, {}, r"'Frage'; its columns.*Body.*{Frage} in data.col"),
        ({}, {"template": "{foo} {problem}"}, "{foo} in data.template.*{problem} or one of th"),
        (
            {},
            {"template": "{problem} \\boxed{result}"},
            r"write {{result}} for braces that sta",
        ),
        ({"problem": "{a.x}"}, {}, "no column 'a.x'; 'a' has b"),
        ({"problem": "{Body:s}"}, {}, "no column 'Body:s'"),
        ({}, {"template": "{problem} {Body!r}"}, "no column 'Body!r'"),
    ],
)
def test_names_in_braces_that_no_column_has_are_refused_with_those_that_there_are(
    load, columns, keys, message
):
    with pytest.raises(DataError, match=message):
        load([SVAMP | {"a": {"b": "x"}}], columns, **keys)


@pytest.mark.parametrize(
    "data",
    [
        {"template": "{problem} {worked}"},
        {"template": "{problem} {result}"},
        {"columns": {"problem": "{Body} {worked}"}},
    ],
)
def test_names_in_braces_never_show_the_policy_what_is_hidden_from_it(data):
    columns = {"reference": "worked", "answer": "result"} | data.get("columns", {})
    values = {"path": "x.jsonl", **data, "columns": columns}
    with pytest.raises(ConfigError, match="stays hidden"):
        config.build({"model": {"path": "m"}, "judge": {"kind": "rules"}, "data": values})


def test_names_in_braces_with_nothing_in_them_are_counted_and_all_empty_ones_refused(load):
    rows = [plain(context="Given x.", q="x?"), plain(context=None, q="y?")]
    remarks = []
    problems = load(rows, {"problem": "{context}\n{q}"}, remarks=remarks)
    assert [p.question for p in problems] == ["Given x.\nx?", "y?"]
    assert len(remarks) == 1
    assert "1 of 2 rows have nothing in {context} of data.columns.problem" in remarks[0]
    assert "first id: '2'" in remarks[0]
    with pytest.raises(DataError, match=r"row 2: .*is empty"):
        load([rows[0], plain(context="", q=" ")], {"problem": "{context}{q}"})


TWO = ("Add 2 and 2: the sum is 4.", "Double 2, which gives $4$.")


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_list_of_solutions_is_shown_to_the_judge_as_alternatives_and_learned_by_its_first(
    load, ending, repo
):
    [only] = load([plain(reference=list(TWO))], ending=ending)
    assert only.reference == TWO[0]
    shown = choose_references("right", [only], 0)["1"]
    assert shown == (
        "There are 2 reference solutions. Each is right by itself.\n\n"
        f"Reference solution 1:\n{TWO[0]}\n\nReference solution 2:\n{TWO[1]}"
    )

    model = config.Model(path=str(repo / "examples/tiny/model"))
    tokenizer = load_tokenizer(model)
    _, target = tokenize_solutions([only], tokenizer, model)["1"]
    assert tokenizer.decode(target, skip_special_tokens=True).strip() == TWO[0]


def test_a_list_of_solutions_of_one_text_is_that_text(load):
    for solutions in (["alone"], ["alone", "  "], ["alone", None]):
        [only] = load([plain(reference=solutions)])
        assert choose_references("right", [only], 0) == {"1": "alone"}


@pytest.mark.parametrize("empty", [[], [" "], [None]])
def test_a_list_of_solutions_without_a_text_is_no_reference(load, empty):
    assert load([plain(reference=empty)])[0].reference is None


@pytest.mark.parametrize(
    ("solutions", "answer", "why"),
    [
        (["Take 2.", "Add 2: 4."], "4", "not every one of which names the answer '4'"),
        (["It is 14.", "So it is 4."], "4", "not every one of which names the answer '4'"),
        (["It is 4.5", "So it is 4."], "4", "not every one of which names the answer '4'"),
        (["One way.", "Another."], None, "the row has no answer that tells what they are"),
    ],
)
def test_a_list_of_solutions_that_may_be_steps_is_refused_with_both_remedies(
    load, solutions, answer, why
):
    rows = [plain(), plain(reference=solutions, answer=answer)]
    with pytest.raises(DataError, match=f"row 2: column 'reference': .*{why}") as error:
        load(rows)
    assert "data.reference_list = 'alternatives'" in str(error.value)
    [_, one] = load(rows, reference_list="alternatives")
    assert (one.reference, *one.alternatives) == tuple(solutions)
    [_, one] = load(rows, reference_list="steps")
    assert (one.reference, one.alternatives) == ("\n".join(solutions), ())


def test_a_list_of_solutions_names_its_answer_with_any_blanks_and_signs(load):
    for answer in ("1, 8", "$1,8$", r"\frac{1}{2}"):
        texts = [r"x is 1,8 or \frac{1}{2}", r"$\frac {1} {2}$, or 1, 8."]
        assert len(load([plain(reference=texts, answer=answer)])[0].alternatives) == 1


def test_a_list_of_solutions_may_name_one_of_several_answers_each(load):
    row = plain(reference=["Half, 1/2.", "It is 0.5."], answer=["1/2", "0.5"])
    assert len(load([row], answer_list="any")[0].alternatives) == 1


def test_a_list_of_solutions_gives_the_answer_that_all_of_them_box(load):
    columns = {"answer": "reference"}
    boxed = [r"First: \boxed{4}", r"Or: \boxed{4}"]
    [only] = load([plain(reference=boxed)], columns, answer_pattern="boxed")
    assert (only.answer, only.reference, only.alternatives) == ("4", boxed[0], (boxed[1],))
    with pytest.raises(DataError, match="a list of 2 answers, '4' and so on"):
        load([plain(reference=[*boxed, r"\boxed{5}"])], columns, answer_pattern="boxed")


@pytest.mark.parametrize("item", [3, {"step": "x"}, ["x"]])
def test_a_list_of_solutions_of_something_else_is_refused_by_its_item(load, item):
    with pytest.raises(DataError, match="row 1: column 'reference': item 2: expected text, f"):
        load([plain(reference=["x", item])])


@pytest.mark.parametrize("void", ["-", "...", "N/A", " nan", "\u2014", "?", "TBD"])
def test_a_void_is_no_reference(load, void):
    assert [load([plain(reference=r)])[0].reference for r in (void, [void])] == [None, None]
    assert load([plain(reference="It is n/a.")])[0].reference == "It is n/a."


GAPS = (plain(), plain(reference=None), plain(reference=" "), plain())


def test_rows_without_a_reference_are_kept_unless_they_are_to_be_dropped_and_keep_their_numbers(
    load,
):
    assert len(load(GAPS)) == 4
    remarks = []
    kept = load(GAPS, missing_reference="drop", remarks=remarks)
    assert [p.id for p in kept] == ["1", "4"]
    assert "2 of 4 rows without a reference are left out" in remarks[0]
    assert "first id: '2'" in remarks[0]


def test_rows_without_a_reference_are_not_dropped_where_references_are_not_read(load):
    assert len(load(GAPS, {"reference": None}, missing_reference="drop")) == 4


def test_rows_without_a_reference_cannot_all_be_dropped(load):
    with pytest.raises(DataError, match="none of its 1 rows has a reference"):
        load(GAPS[1:2], missing_reference="drop")


def test_rows_without_a_reference_are_found_again_by_what_reads_a_finished_run(tmp_path):
    sources = [{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    data = config.Data.model_validate({"sources": sources, "missing_reference": "drop"})
    assert {part.missing_reference for part in data.parts} == {"drop"}
    assert {part.missing_reference for part in keep_all_rows(data).parts} == {"stop"}


OWN = ({"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"})


@pytest.mark.parametrize(
    ("wins", "used", "said"),
    [("row", "Mine.", "theirs is used"), ("config", "Yours.", "data.system is used")],
)
def test_a_system_message_of_the_row_or_of_the_config_counts_as_set_and_is_said(
    load, wins, used, said
):
    remarks = []
    rows = [plain(), plain(problem=OWN)]
    keys = {"system": "Yours.", "system_wins": wins, "remarks": remarks}
    first, second = load(rows, **keys)
    assert [m.content for m in first.prompt.messages] == ["Yours.", "Which?"]
    assert [m.content for m in second.prompt.messages] == [used, "Hi"]
    assert len(remarks) == 1 and said in remarks[0]
    assert "1 of 2 rows" in remarks[0] and "first id: '2'" in remarks[0]


def test_a_system_message_of_the_row_stands_where_the_config_has_none(load):
    remarks = []
    [only] = load([plain(problem=OWN)], system_wins="config", remarks=remarks)
    assert only.prompt.messages[0].content == "Mine." and not remarks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (33, "33"),
        (33.0, "33"),
        (0.5, "0.5"),
        (2**70, "1180591620717411303424"),
        (1e23, "100000000000000000000000"),
        (1e-7, "0.0000001"),
        (-2.0, "-2"),
        (-0.0, "0"),
    ],
)
def test_values_that_are_numbers_keep_the_digits_that_were_written(load, value, text):
    assert load([plain(answer=value)])[0].answer == text


def test_values_of_parquet_that_are_decimals_keep_their_digits(load):
    assert load([plain(answer=Decimal("2.50"))], ending=".parquet")[0].answer == "2.50"


def test_values_of_parquet_in_32_bits_keep_their_digits(load, tmp_path):
    narrow = pa.struct([("n", pa.float32()), ("l", pa.list_(pa.float32()))])
    columns = {"problem": pa.array(["p"]), "reference": pa.array(["r"])}
    columns |= {"answer": pa.array([0.1], pa.float32())}
    columns |= {"more": pa.array([{"n": 2.3, "l": [0.7]}], narrow)}
    parquet.write_table(pa.table(columns), tmp_path / "narrow.parquet")
    for answer, text in {"answer": "0.1", "more.n": "2.3"}.items():
        data = {"path": str(tmp_path / "narrow.parquet"), "columns": {"answer": answer}}
        assert load_problems(config.Data.model_validate(data))[0].answer == text


@pytest.mark.parametrize(
    ("value", "found"),
    [(datetime(2020, 1, 1), "a datetime"), (b"4", "bytes"), (True, "a boolean")],
)
@pytest.mark.parametrize("column", ["problem", "reference", "answer"])
def test_values_of_other_types_are_refused_by_row_column_and_type(load, column, value, found):
    message = f"row 1: column {column!r}: expected text.*, found {found}"
    with pytest.raises(DataError, match=message):
        load([plain(**{column: value})], ending=".parquet")


def test_values_that_are_infinite_are_refused(load):
    with pytest.raises(DataError, match=r"row 1: column 'answer': .*finite number, found inf"):
        load([plain(answer=float("inf"))])


def test_values_of_id_columns_may_be_integers(load):
    assert load([plain(n=7)], {"id": "n"})[0].id == "7"


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("answers", [["1/2", "0.5"], [3, 4], ["3", "4", "5"]])
def test_a_list_of_answers_is_refused_with_row_and_column_or_read_as_asked(load, ending, answers):
    rows = [plain(answer=answers[:1]), plain(answer=answers)]
    if isinstance(answers[0], str):
        with pytest.raises(DataError, match=r"row 2: column 'answer': a list .*data.answer_list"):
            load(rows, ending=ending)
    one, several = load(rows, ending=ending, answer_list="any")
    texts = [str(answer) for answer in answers]
    assert (one.answer, one.more_answers) == (texts[0], ())
    assert [several.answer, *several.more_answers] == texts
    assert not several.all_answers
    assert load(rows, ending=ending, answer_list="all")[1].all_answers
    kept = several.without_reference()
    assert (kept.answer, kept.more_answers) == (several.answer, several.more_answers)


def test_a_list_of_equal_answers_is_one(load):
    assert load([plain(answer=["3", "3", " "])])[0].answer == "3"


def test_a_list_of_test_statements_is_one_text(load):
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    for cells, columns in (
        ({"domain": "code"}, {"domain": "domain"}),
        ({"domain": "mbpp"}, {"domain": "domain"}),
    ):
        [row] = load([plain(answer=tests, **cells)], columns)
        assert (row.answer, row.more_answers) == ("\n".join(tests), ())
