"""Files of problems as other people write them."""

from case_files import FOLDER, Case, assert_refused, every_line

from exprl import config
from exprl.data.problems import load_problems


def read_first(case: Case) -> dict[str, object]:
    """What the first row of a file is read as, and how many rows there are."""
    columns = config.Columns(**case.get("columns", {}))
    path = str(FOLDER / "data" / case["file"])
    problems = load_problems(config.Data(path=path, columns=columns, **case.get("data", {})))
    first = problems[0]
    return {
        "rows": len(problems),
        "question": first.question,
        "roles": [message.role for message in first.prompt.messages],
        "reference": first.reference,
        "answer": first.answer,
        "domain": first.domain,
    }


@every_line("data/cases.jsonl")
def test_a_file_is_read_as_it_is_meant_or_refused_by_name(number, case):
    try:
        found, error = read_first(case), None
    except Exception as caught:
        found, error = {}, caught
    if case["expected"] == "refused":
        assert_refused(error, case)
    else:
        assert error is None
        assert {key: found[key] for key in case["expected"]} == case["expected"]
