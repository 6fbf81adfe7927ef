"""The judge from Python, against the rule judge: what goes in, what comes out, what is refused."""

import asyncio
import json
import pickle
import signal
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from exprl.errors import ConfigError, DataError, ExprlError, JudgeError
from exprl.judge import (
    Graded,
    GradedArrays,
    Judge,
    JudgeItem,
    JudgeSettings,
    Prices,
    RuleJudge,
    split,
)

PROBLEM = "5)106973="
REFERENCE = r"5*021394+3=106973###\boxed{021394r3}"
RIGHT = split(r"01/5=0r1###10/5=2r0###06/5=1r1###19/5=3r4###47/5=9r2###23/5=4r3###\boxed{021394r3}")
WRONG_AT_2 = (*RIGHT[:2], "###06/5=1r2", *RIGHT[3:])


@pytest.fixture(scope="module")
def rules():
    with RuleJudge("division") as server:
        yield server


def settings(server: RuleJudge, **changes: object) -> JudgeSettings:
    return JudgeSettings((server.url,), server.model, **changes)


def item(name: str = "0", segments: tuple[str, ...] = RIGHT) -> JudgeItem:
    return JudgeItem(name, PROBLEM, REFERENCE, segments, "math")


def distinct(count: int) -> list[JudgeItem]:
    """Items whose requests all differ."""
    return [item(str(i), (str(i), *RIGHT)) for i in range(count)]


def test_each_prefix_is_graded_and_scored(rules):
    with Judge(settings(rules)) as judge:
        right, wrong = judge.submit([item("right"), item("wrong", WRONG_AT_2)]).result()
    assert (right.index, right.id, wrong.index, wrong.id) == (0, "right", 1, "wrong")
    assert [v.grade for v in right.verdicts] == [5] * 7
    assert [v.score for v in wrong.verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    first = right.verdicts[0]
    assert (first.status, first.server, first.error) == ("ok", rules.url, None)
    assert first.prompt_tokens > 0
    assert first.reply.endswith("Score: 5")


def test_arrays_hold_every_verdict_in_the_order_of_pushes_and_nan_where_none_came():
    with RuleJudge("division", no_grade_rate=0.5, seed=3) as server:
        items = [item("a"), *distinct(6), item("b", WRONG_AT_2)]
        with Judge(settings(server, reask=False)) as judge:
            columns = judge.submit(items).arrays()
            graded = judge.submit(items).result()
    assert columns.ids == tuple(each.id for each in items)
    assert columns.offsets.tolist() == [0, *np.cumsum([len(g.verdicts) for g in graded])]
    verdicts = [verdict for each in graded for verdict in each.verdicts]
    missing = [verdict.grade is None for verdict in verdicts]
    assert any(missing) and not all(missing)
    assert np.isnan(columns.scores).tolist() == np.isnan(columns.grades).tolist() == missing
    assert columns.statuses.tolist() == [verdict.status for verdict in verdicts]
    for counts in ("prompt_tokens", "completion_tokens"):
        assert getattr(columns, counts).tolist() == [getattr(v, counts) for v in verdicts]
    one = Graded(0, "c", (verdicts[0]._replace(cached_tokens=3, latency_s=0.5),))
    one = GradedArrays.of([one])
    assert (one.cached_tokens.tolist(), one.latencies_s.tolist()) == ([3], [0.5])
    kept = [verdict for verdict in verdicts if verdict.grade is not None]
    assert columns.grades[~np.isnan(columns.grades)].tolist() == [v.grade for v in kept]
    assert columns.scores[~np.isnan(columns.scores)].tolist() == [v.score for v in kept]


def test_a_job_without_items_has_empty_arrays(rules):
    with Judge(settings(rules)) as judge:
        columns = judge.submit([]).arrays()
    assert columns.ids == () and columns.offsets.tolist() == [0] and columns.scores.shape == (0,)


def test_an_outcome_is_one_grade(rules):
    with Judge(settings(rules, view="outcome")) as judge:
        graded = judge.submit([item(), item("wrong", WRONG_AT_2)]).result()
    assert [len(g.verdicts) for g in graded] == [1, 1]
    assert [g.verdicts[0].grade for g in graded] == [5, 2]


def test_items_pushed_late_are_graded_and_come_as_they_finish(rules):
    with Judge(settings(rules)) as judge:
        job = judge.submit()
        job.push(item("a"))
        assert next(job).id == "a"
        job.push(item("b", WRONG_AT_2))
        job.close()
        assert [graded.id for graded in job] == ["b"]
        assert job.result() == []


def test_a_job_can_be_iterated_and_awaited_in_asyncio(rules):
    async def both(judge: Judge) -> tuple[set[str], list[str]]:
        seen = {graded.id async for graded in judge.submit(distinct(50))}
        return seen, [graded.id for graded in await judge.submit(distinct(50))]

    with Judge(settings(rules, view="outcome")) as judge:
        seen, order = asyncio.run(both(judge))
    assert order == [str(i) for i in range(50)]
    assert seen == set(order)


def test_what_an_interrupted_wait_has_taken_is_not_lost():
    with (
        RuleJudge("division", latency_ms=40) as server,
        Judge(settings(server, view="outcome", concurrency=1)) as judge,
    ):
        awaited, waited = judge.submit(distinct(20)), judge.submit(distinct(20))

        async def too_short() -> None:
            await asyncio.wait_for(_awaited(awaited), 0.2)

        with pytest.raises(TimeoutError):
            asyncio.run(too_short())
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                waited.result()
        finally:
            signal.signal(signal.SIGALRM, before)
        for job in (awaited, waited):
            assert [graded.index for graded in job.result()] == list(range(20))


def test_the_event_loop_stays_free_while_a_job_runs():
    async def ticks(judge: Judge) -> int:
        count = 0

        async def tick() -> None:
            nonlocal count
            while True:
                await asyncio.sleep(0.01)
                count += 1

        ticking = asyncio.create_task(tick())
        await judge.submit([item()])
        ticking.cancel()
        return count

    with (
        RuleJudge("division", latency_ms=300) as slow,
        Judge(settings(slow, view="outcome")) as judge,
    ):
        assert asyncio.run(ticks(judge)) >= 10


def test_more_items_than_the_queue_holds_are_queued_as_results_are_taken():
    items = distinct(300)
    taken = 0

    def counted():
        nonlocal taken
        for each in items:
            taken += 1
            yield each

    with (
        RuleJudge("division", latency_ms=20) as server,
        Judge(settings(server, concurrency=16, queue_bytes=1 << 15)) as judge,
    ):
        job = judge.submit(counted())
        assert 0 < taken < len(items), "submit must not wait for room"
        with pytest.raises(JudgeError, match="takes no more"):
            job.push(item("late"))
        graded = job.result()
    assert [each.id for each in graded] == [each.id for each in items]
    assert all(verdict.grade == 1 for each in graded for verdict in each.verdicts)


def test_two_jobs_share_a_queue_that_the_first_has_filled():
    with (
        RuleJudge("division", latency_ms=40) as server,
        Judge(settings(server, concurrency=8, queue_bytes=1 << 14)) as judge,
    ):
        first, second = judge.submit(distinct(60)), judge.submit([item("a"), item("b")])
        assert len(second.result()) == 2
        assert len(asyncio.run(_awaited(judge.submit([item("c")])))) == 1
        assert len(first.result()) == 60


async def _awaited(job):
    return await job


def test_a_bad_item_far_down_raises_where_it_is_reached(rules):
    items = [*distinct(200), item("bad", ()), *distinct(3)]
    with Judge(settings(rules, queue_bytes=1 << 14)) as judge:
        job = judge.submit(items)
        with pytest.raises(DataError, match="bad"):
            job.result()


def test_cancelling_leaves_alone_what_was_not_queued():
    with (
        RuleJudge("division", latency_ms=60_000) as server,
        Judge(settings(server, queue_bytes=1 << 14)) as judge,
    ):
        job = judge.submit(distinct(200))
        job.cancel()
        graded = job.result()
    assert 0 < len(graded) < 200
    assert {verdict.status for each in graded for verdict in each.verdicts} == {"cancelled"}


@pytest.mark.parametrize("place, name", list(enumerate(JudgeItem._fields)))
def test_a_field_of_the_wrong_type_is_named(rules, place, name):
    wrong = [*item()]
    wrong[place] = 7
    with Judge(settings(rules)) as judge, pytest.raises(TypeError, match=f"`{name}`"):
        judge.submit([JudgeItem(*wrong)])


def test_statistics_count_what_was_sent_and_stay_readable_after_the_end(rules):
    with Judge(settings(rules)) as judge:
        judge.submit([item()]).result()
    stats = judge.stats()
    assert (stats.requests_sent, stats.statuses["ok"], stats.in_flight) == (7, 7, 0)
    assert stats.latency_p50_s > 0


def test_an_identical_re_run_sends_nothing(rules, tmp_path):
    ledger = str(tmp_path / "ledger")
    with Judge(settings(rules, ledger=ledger)) as judge:
        first = judge.submit([item()]).result()
    with Judge(settings(rules, ledger=ledger)) as judge:
        second = judge.submit([item()]).result()
        assert (judge.stats().requests_sent, judge.stats().from_ledger) == (0, 7)
    assert [v.grade for v in first[0].verdicts] == [v.grade for v in second[0].verdicts]
    assert all(v.from_cache for v in second[0].verdicts)


def test_a_ledger_in_use_is_refused(rules, tmp_path):
    open_twice = settings(rules, ledger=str(tmp_path))
    with Judge(open_twice), pytest.raises(JudgeError, match="in use"):
        Judge(open_twice)


def test_a_fault_is_overcome_and_a_missing_grade_stays_missing():
    with (
        RuleJudge("division", error_rate=0.05, no_grade_rate=0.3, seed=1) as server,
        Judge(settings(server, view="outcome")) as judge,
    ):
        verdicts = [g.verdicts[0] for g in judge.submit(distinct(200)).result()]
        stats = judge.stats()
        counted = server.stats()
    missing = [v for v in verdicts if v.status != "ok"]
    assert {v.status for v in missing} == {"unparseable"}
    assert all(v.score is None and v.grade is None and v.error for v in missing)
    assert len(missing) == counted["no_grade"] == stats.statuses["unparseable"]
    assert stats.requests_sent == counted["requests"]
    assert stats.retries == counted["errors"] > 0


def test_cancelling_ends_the_job_at_once():
    with (
        RuleJudge("division", latency_ms=60_000) as server,
        Judge(settings(server, view="outcome")) as judge,
    ):
        job = judge.submit(distinct(5))
        job.cancel()
        assert {g.verdicts[0].status for g in job} == {"cancelled"}


def test_closing_the_judge_ends_its_jobs():
    with RuleJudge("division", latency_ms=60_000) as server:
        with Judge(settings(server, view="outcome")) as judge:
            job = judge.submit(distinct(3))
        assert [g.verdicts[0].status for g in job.result()] == ["cancelled"] * 3
        with pytest.raises(JudgeError, match="closed"):
            job.push(item())
        with pytest.raises(JudgeError, match="closed"):
            judge.submit()


def test_a_server_that_is_not_there_ends_as_http_error():
    with RuleJudge("division") as server:
        gone = settings(server, view="outcome", attempts=1)
    with Judge(gone) as judge:
        verdict = judge.submit([item()]).result()[0].verdicts[0]
    assert (verdict.status, verdict.score) == ("http_error", None)
    assert "connect" in verdict.error


class Silent(BaseHTTPRequestHandler):
    """A server that writes a digit, and no log-probabilities."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"message": {"content": "4"}, "finish_reason": "length"}
        answer = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_without_log_probabilities_a_direct_readout_gives_no_grade_and_says_why():
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            with Judge(JudgeSettings((url,), "m", readout="direct")) as judge:
                verdicts = judge.submit([item()]).result()[0].verdicts
                sent = judge.stats().requests_sent
        finally:
            server.shutdown()
    assert {(v.status, v.grade, v.score) for v in verdicts} == {("unparseable", None, None)}
    assert "log-probabilities" in verdicts[0].error
    assert sent == len(verdicts), "nobody is asked again"


def test_a_direct_readout_is_one_digit_and_the_mean_under_its_probabilities():
    rows = [item("right"), item("wrong", WRONG_AT_2)]
    with (
        RuleJudge("division", doubt=0.25) as server,
        Judge(settings(server, readout="direct")) as judge,
    ):
        right, wrong = judge.submit(rows).result()
        stats = judge.stats()
    assert [(v.status, v.grade, v.reply) for v in right.verdicts] == [("ok", 5, "5")] * 7
    # 5 with 0.75 and 4 with 0.25; 1 with 0.75 and 2 with 0.25.
    assert [v.score for v in right.verdicts] == pytest.approx([0.9375] * 7)
    assert [v.score for v in wrong.verdicts] == pytest.approx([0.9375] * 2 + [0.0625] * 5)
    # The first two beginnings are the same.
    assert (stats.completion_tokens, stats.shared, stats.readout_fallbacks) == (12, 2, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"view": "page"}, "view"),
        ({"readout": "vibes"}, "readout"),
        ({"score_map": "cubic"}, "score_map"),
        ({"concurrency": 0}, "concurrency"),
        ({"deadline_s": -1.0}, "deadline_s"),
        ({"rpm": 0}, "rpm"),
        ({"tpm": -5}, "tpm"),
        ({"kv_tokens": "many"}, "kv_tokens"),
        ({"hedge": 2.0}, "hedge"),
        ({"prices": Prices(0.1, -1.0, 2.0)}, "prices"),
        ({"extra": {"model": "other"}}, "extra"),
        ({"endpoints": ()}, "endpoints"),
        ({"endpoints": ("localhost:8000",)}, "endpoints"),
        ({"api_key_env": "EXPRL_NO_SUCH_VARIABLE"}, "EXPRL_NO_SUCH_VARIABLE"),
        ({"rubric": "no-such-rubric.toml"}, "no-such-rubric.toml"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes, named):
    given = {"endpoints": ("http://127.0.0.1:9/v1",), "model": "m"} | changes
    with pytest.raises(ConfigError, match=named):
        Judge(JudgeSettings(**given))


def test_a_rubric_file_that_cannot_work_is_refused(tmp_path):
    rubric = tmp_path / "rubric.toml"
    rubric.write_text('head = "Grade."\ninstruction = "Say something nice."\n')
    with pytest.raises(ConfigError, match="Score: n"):
        Judge(JudgeSettings(("http://127.0.0.1:9/v1",), "m", rubric=str(rubric)))


def test_an_item_without_segments_is_refused_with_its_id(rules):
    with Judge(settings(rules)) as judge, pytest.raises(DataError, match='"empty"'):
        judge.submit().push(item("empty", ()))


def test_settings_pickle_and_handles_refuse(rules):
    plain = settings(rules, extra={"top_p": 0.9})
    assert pickle.loads(pickle.dumps(plain)) == plain
    with Judge(plain) as judge:
        job = judge.submit([item()])
        for handle in (judge, job, rules):
            with pytest.raises(JudgeError, match="pickled"):
                pickle.dumps(handle)


def test_a_key_never_shows(rules, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPRL_TEST_KEY", "sk-very-secret")
    keyed = settings(rules, view="outcome", api_key_env="EXPRL_TEST_KEY", ledger=str(tmp_path))
    with Judge(keyed) as judge:
        graded = judge.submit([item()]).result()
        assert "sk-very-secret" not in repr((keyed, judge, graded, judge.stats()))
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-very-secret" not in kept
    with pytest.raises(ConfigError) as refused:
        JudgeSettings(("http://me:sk-very-secret@host/v1",), "m")
    assert "sk-very-secret" not in str(refused.value)


def test_every_error_has_one_root():
    assert issubclass(ConfigError, ExprlError)
    assert issubclass(JudgeError, ExprlError)


def test_a_plain_text_is_cut_at_the_steps():
    assert split("a###b####c") == ("a", "###b", "####c")
    assert split("no steps") == ("no steps",)
    assert split("") == ("",)
    assert split("a###b\nc", "line") == ("a###b\n", "c")
    assert split("a\nb\nc", "line", max_steps=2) == ("a\nb\n", "c")


def test_the_rule_judge_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match="poetry"):
        RuleJudge("poetry")
    with pytest.raises(ConfigError, match="rate"):
        RuleJudge("division", no_grade_rate=1.5)


def test_the_fence_key_is_readable_by_its_owner_only(rules, tmp_path):
    with Judge(settings(rules, ledger=str(tmp_path))):
        pass
    assert (tmp_path / "fence.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "fence.key").stat().st_size == 32


def test_a_judge_tells_prometheus_what_it_did_and_what_it_cost(rules):
    prices = Prices(prompt=1e6, cached=1e6, completion=0.0)
    with Judge(settings(rules, view="outcome", prices=prices)) as judge:
        judge.submit([item()]).result()
        with urllib.request.urlopen(judge.serve_metrics()) as response:
            page = response.read().decode()
        stats = judge.stats()
        assert judge.prometheus().count("\n") == page.count("\n")
    assert stats.cost == stats.prompt_tokens > 0
    assert f'exprl_judge_requests_total{{server="{rules.url}",status="200"}} 1\n' in page
    assert f"exprl_judge_cost_total {stats.prompt_tokens}\n" in page
    with pytest.raises(JudgeError, match="closed"):
        judge.prometheus()


def test_requests_per_minute_are_kept_to_from_python(rules):
    start = time.monotonic()
    with Judge(settings(rules, view="outcome", rpm=120)) as judge:
        graded = judge.submit(distinct(4)).result()
    assert [one.verdicts[0].status for one in graded] == ["ok"] * 4
    assert time.monotonic() - start > 0.9
