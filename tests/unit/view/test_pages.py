"""What the pages of a run show, where they lead, and what they say where something is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from pyarrow import parquet
from starlette.testclient import TestClient
from view_runs import Page, open_pages, read, scored, write_step

from exprl.errors import DataError
from exprl.monitor.picks import PICKS
from exprl.view.app import make_app

LONG = "so it goes on " * 2_000
STEP_1 = [
    scored("p", 0, (5, 1, 5), correct=False),
    scored("p", 1, (1,), correct=True, statuses=("repaired",)),
    scored("q", 0, (4, None), correct=True, reasons=("no byte for 300 s",), domain="code"),
    scored("q", 1, (3,), ["Score: 5"], domain="code", finish="length", overlong=True),
    scored("q", 2, (2, 2), [LONG, "done"], correct=False, domain="code"),
]
STEP_2 = [scored("p", i, (grade,), correct=True) for i, grade in enumerate((4, 5))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    run_dir.mkdir()
    write_step(run_dir, 1, STEP_1)
    write_step(run_dir, 2, STEP_2)
    return run_dir


@pytest.fixture(scope="module")
def pages(run: Path) -> Iterator[TestClient]:
    with open_pages(run) as client:
        while len(read(client, "problems").links("problem?")) < 2:  # the thread reads the steps
            pass
        yield client


def test_the_first_page_shows_the_newest_step_and_leads_to_every_rollout_of_it(
    pages: TestClient,
) -> None:
    page = read(pages, "")
    assert "Step 2" in page.text and "What is p?" in page.text and "2 of 2 right" in page.text
    assert page.links("rollout?") == ["rollout?step=2&row=0", "rollout?step=2&row=1"]


def test_a_step_lists_its_problems_with_every_rollouts_last_grade(pages: TestClient) -> None:
    page = read(pages, "?step=1")
    assert page.links("group?") == ["group?step=1&problem=p", "group?step=1&problem=q"]
    assert (
        "5✗" in page.text
        and "1✓" in page.text
        and "3·" in page.text
        and "\N{EN DASH}✓" in page.text
    )


@pytest.mark.parametrize(
    ("query", "problems"),
    [
        ("search=what is q", ["q"]),
        ("search=nothing like it", []),
        ("domain=code", ["q"]),
        ("sort=id", ["p", "q"]),
        ("sort=missing", ["q", "p"]),
        ("sort=solved", ["p", "q"]),
        ("sort=spread", ["p", "q"]),
    ],
)
def test_problems_can_be_searched_and_sorted(
    pages: TestClient, query: str, problems: list[str]
) -> None:
    page = read(pages, f"?step=1&{query}")
    assert page.links("group?") == [f"group?step=1&problem={name}" for name in problems]


@pytest.mark.parametrize(
    ("pick", "rows"),
    [
        ("missing", [2]),
        ("repaired", [1]),
        ("wrong_but_5", [0]),
        ("right_but_1", [1]),
        ("single_step", [1, 3]),
        ("injection", [3]),
        ("overlong", [3]),
        ("disagree", [1, 0]),
        ("longest", [0, 2, 4, 1, 3]),
        ("blank", []),
    ],
)
def test_every_filter_finds_its_rollouts(pages: TestClient, pick: str, rows: list[int]) -> None:
    page = read(pages, f"rollouts?pick={pick}&step=1")
    assert PICKS[pick].meaning in page.text
    found = [link for link in page.links("rollout?") if link.endswith(f"pick={pick}")]
    assert found == [f"rollout?step=1&row={row}&pick={pick}" for row in rows]


def test_every_pick_is_a_filter_of_the_page(pages: TestClient) -> None:
    links = read(pages, "rollouts").links("rollouts?pick=")
    assert links == [f"rollouts?pick={name}" for name in PICKS]


def test_a_filter_over_all_steps_puts_the_strongest_first(pages: TestClient) -> None:
    links = read(pages, "rollouts?pick=best").links("rollout?")
    assert links[0] == "rollout?step=2&row=1&pick=best&everywhere=1"
    assert len(links) == 6  # two are overlong or have no reward: the missing one is left out


def test_a_filter_keeps_to_one_problem_and_to_one_domain(pages: TestClient) -> None:
    assert len(read(pages, "rollouts?domain=code").links("rollout?")) == 3
    assert len(read(pages, "rollouts?problem=p").links("rollout?")) == 4
    assert len(read(pages, "rollouts?problem=p&step=1").links("rollout?")) == 2


def test_next_and_previous_stay_in_the_selection_and_keep_the_colours(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=0&pick=longest&colour=lag")
    kept = "&colour=lag&pick=longest"
    assert f"rollout?step=1&row=2{kept}" in page.links()
    page = read(pages, "rollout?step=2&row=1&pick=best&everywhere=1")
    assert "1 of 6: best, all steps" in page.text


def test_a_group_shows_question_reference_and_the_rollouts_side_by_side(pages: TestClient) -> None:
    page = read(pages, "group?step=1&problem=p")
    for words in ("What is p?", "42", "the solution of p", "step 1.", "step 3."):
        assert words in page.text
    assert page.count("narrow") == 4  # three steps and one
    chosen = read(pages, "group?step=1&problem=p&show=1&colour=advantage")
    assert chosen.count("narrow") == 1
    assert "group?step=1&problem=p&show=0,1&colour=advantage" in chosen.links()


def test_a_problem_shows_its_groups_through_the_steps(pages: TestClient) -> None:
    page = read(pages, "problem?problem=p")
    assert page.links("group?") == ["group?step=2&problem=p", "group?step=1&problem=p"]
    assert "group?step=2&problem=p" in read(pages, "group?step=1&problem=p").links()


def test_a_rollout_shows_grade_advantage_and_score_of_every_step(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=0")
    assert page.count("step") == 3
    levels = [
        attrs["class"] for tag, attrs in page.elements if (attrs.get("id") or "") in ("s1", "s2")
    ]
    assert levels == ["step level-5", "step level-1"]
    assert (
        "\N{MINUS SIGN}1.00" in page.text
        and "score 0.00" in page.text
        and "the solution of p" in page.text
    )
    by_advantage = read(pages, "rollout?step=1&row=0&colour=advantage")
    levels = [a["class"] for _, a in by_advantage.elements if (a.get("id") or "") in ("s1", "s2")]
    assert levels == ["step level-3", "step level-1"]


def test_tokens_show_their_log_probability_and_their_lag(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=0&colour=logp")
    titles = [
        attrs["title"]
        for _, attrs in page.elements
        if attrs.get("class", "").startswith("token ") and "title" in attrs
    ]
    assert titles[0] == "token 1 · id 0 · log-prob -6.000 (0.25%) · policy version 3 · lag 2"
    assert titles[-1] == "token 6 · id 5 · log-prob 0.000 (100.00%) · policy version 4 · lag 1"
    assert page.count("rare-4") == 2  # the first token, and the legend
    lags = read(pages, "rollout?step=1&row=0&colour=lag")
    assert (lags.count("rare-2"), lags.count("rare-1")) == (4, 4)  # three each, and the legend
    assert "lag 1 to 2" in lags.text


def test_a_run_without_a_tokenizer_shows_ids_and_says_what_is_missing(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=0&colour=logp")
    assert "[0][1]" in page.text and "tokenizer.json" in page.text


def test_why_a_grade_is_missing_stands_on_the_page(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=2&open=2")
    assert "no byte for 300 s" in page.text and "the judge gave no reply (timeout)" in page.text


def test_a_long_step_is_cut_until_all_of_it_is_asked_for(pages: TestClient) -> None:
    page = read(pages, "rollout?step=1&row=4")
    hidden = len(LONG) - 4_000
    assert f"show all: {hidden:,} more characters" in page.text
    assert len(page.text) < 8_000
    [whole] = [link for link in page.links() if link.endswith("full=1")]
    assert LONG.strip() in read(pages, whole).text


@pytest.mark.parametrize(
    ("address", "status", "says"),
    [
        ("?step=9", 404, "the run has no rollouts of step 9; it has 1 to 2"),
        ("?step=x", 400, "step=x"),
        ("?sort=up", 400, "sort=up: use one of order"),
        ("rollout?step=1", 400, "row=NUMBER"),
        ("rollout?step=1&row=5", 404, "step 1 has the rollouts 0 to 4"),
        ("rollout?step=1&row=0&colour=red", 400, "colour=red"),
        ("rollout?step=1&row=0&open=1,-2", 400, "open=-2"),
        ("rollout?step=1&row=99999999999999999999", 400, "row=9999"),
        ("rollouts?pick=nice", 404, "there is no filter"),
        ("group?step=1&problem=z", 404, "step 1 has no problem"),
        ("problem?problem=z", 404, "has a problem"),
        ("nothing", 404, "there is no such page"),
        ("../../etc/passwd", 404, "there is no such page"),
        ("static/../app.py", 404, "there is no such page"),
    ],
)
def test_an_address_that_leads_nowhere_says_why(
    pages: TestClient, address: str, status: int, says: str
) -> None:
    answer = pages.get(f"/{address}")
    assert answer.status_code == status
    assert says in Page(answer.text).text


def test_every_kind_of_link_leads_somewhere(pages: TestClient) -> None:
    """One link of each kind is followed: of each page with each set of values in its address."""
    kinds: set[tuple[str, ...]] = set()
    left = ["./"]
    while left:
        page = read(pages, left.pop().removeprefix("./"))
        for href in page.links():
            parts = urlsplit(href)
            kind = (parts.path or "./", *parse_qs(parts.query))
            if parts.path + parts.query and kind not in kinds:
                kinds.add(kind)
                left.append(href)
    paths = {path for path, *_ in kinds}
    assert paths == {"./", "problems", "problem", "rollouts", "rollout", "group"}
    assert len(kinds) > 20


def test_a_step_of_many_problems_has_pages(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [scored(f"p{i:03d}", 0, (5,)) for i in range(130)])
    with open_pages(tmp_path) as pages:
        shown = [read(pages, f"?page={number}") for number in (1, 2, 3)]
        assert [len(page.links("group?")) for page in shown] == [60, 60, 10]
        assert len({link for page in shown for link in page.links("group?")}) == 130
        assert "./?page=2&sort=order" in shown[0].links() and "page 1 of 3" in shown[0].text


def test_a_name_full_of_signs_has_an_address_too(tmp_path: Path) -> None:
    name = "a/../b?step=9&row=1#x %2e'\"<b>é\u202e"
    write_step(tmp_path, 1, [scored(name, 0, (5,))])
    with open_pages(tmp_path) as pages:
        [group] = read(pages, "").links("group?")
        page = read(pages, group)
        assert "rollout?step=1&row=0" in page.links()
        assert read(pages, f"rollouts?problem={quote(name)}").links("rollout?")


def test_a_step_of_an_older_exprl_shows_what_is_there_and_says_what_is_not(
    tmp_path: Path, run: Path
) -> None:
    table = parquet.read_table(run / "rollouts" / "step-00001.parquet")
    older = ("question", "answer", "reference", "statuses", "ledger_keys", "reasons", "masked")
    older += ("overlong", "blank", "injection", "length")
    (tmp_path / "rollouts").mkdir()
    path = tmp_path / "rollouts" / "step-00001.parquet"
    parquet.write_table(table.drop_columns(list(older)).replace_schema_metadata(), path)
    with open_pages(tmp_path) as pages:
        first = read(pages, "")
        assert "does not hold" in first.text and "repaired not recorded" in first.text
        page = read(pages, "rollout?step=1&row=0&open=1&colour=lag")
        assert "score 1.00" in page.text and "step 1." in read(pages, "rollout?step=1&row=0").text
        assert "without the reference" in page.text and "The lag is not known" in page.text
        assert "an older exprl wrote the file" in page.text


def test_a_file_that_cannot_be_read_is_named_and_the_other_steps_are_shown(tmp_path: Path) -> None:
    write_step(tmp_path, 1, STEP_2)
    broken = tmp_path / "rollouts" / "step-00002.parquet"
    broken.write_bytes(b"PAR1 half a file")
    with open_pages(tmp_path) as pages:
        assert pages.get("/?step=1").status_code == 200
        answer = pages.get("/")
        assert answer.status_code == 500 and str(broken) in Page(answer.text).text
        assert str(broken) in read(pages, "?step=1").text


def test_a_run_that_has_not_begun_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with open_pages(tmp_path) as pages:
        page = read(pages, "")
        assert "No rollouts yet" in page.text
        assert read(pages, "problems") and read(pages, "rollouts")


def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the folder of a run"):
        make_app(tmp_path, lambda: None)


HOSTILE = (
    "</div></main><script>alert(1)</script><img src=x onerror=a()>\" onclick='a' {{7}}\u202e\x00"
)


def test_no_text_of_a_model_or_of_the_data_makes_an_element(tmp_path: Path) -> None:
    shapes: dict[str, list[list[tuple[str, ...]]]] = {}
    for words in ("plain", HOSTILE):
        run = tmp_path / f"run {'of' if words == 'plain' else '<b>of'}"
        run.mkdir()
        one = scored(f"id {words}", 0, (5, None), [words, words], domain=words, reasons=(words,))
        write_step(run, 1, [one], {f"id {words}": words}, {f"id {words}": words})
        with open_pages(run) as pages:
            [group] = read(pages, "").links("group?")
            [problem] = read(pages, group).links("problem?")
            rollout = "rollout?step=1&row=0&open=1,2"
            addresses = [
                "",
                group,
                problem,
                rollout,
                "problems",
                "rollouts",
                f"{rollout}&colour=lag",
            ]
            read_pages = [read(pages, address) for address in addresses]
            shapes[words] = [
                [
                    (tag, *attrs)
                    for tag, attrs in page.elements
                    if attrs.get("class") != "code-point" and "option" not in tag
                ]
                for page in read_pages
            ]
            assert all(words in page.text or words == HOSTILE for page in read_pages[:4])
    assert shapes["plain"] == shapes[HOSTILE]
