"""The judge against a real vLLM server: chat template, log-probs, guided re-ask, prefix cache.

The model (examples/tiny/make_judge.py) replies `Score: n` with known probabilities.
"""

import socket
import sys

import pytest

from exprl.judge import Judge, JudgeItem, JudgeSettings, Verdict, split

pytestmark = pytest.mark.engine

ITEM = JudgeItem(
    "0", "What is 2 + 2?", "2 + 2 = 4", split("### " + "Two and two are " * 30 + "### 4.")
)


@pytest.fixture(scope="module")
def served(repo):
    sys.path.insert(0, str(repo / "examples" / "tiny"))
    import make_judge
    import serve_judge

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve_judge.served(port, "--max-model-len", "8192", "--max-num-seqs", "16") as url:
        yield url, serve_judge.MODEL, make_judge


def grade(served, **settings) -> list[Verdict]:
    url, model, _ = served
    with Judge(JudgeSettings((url,), model, **settings)) as judge:
        (graded,) = judge.submit([ITEM]).result()
    return list(graded.verdicts)


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_readout_is_the_likeliest_grade(served, stream):
    for verdict in grade(served, stream=stream):
        assert (verdict.status, verdict.grade, verdict.score) == ("ok", 4, 0.75)
        assert verdict.reply == "Score: 4"


@pytest.mark.parametrize("stream", [False, True])
def test_the_expected_readout_is_the_mean_under_the_models_own_probabilities(served, stream):
    _, _, judge_model = served
    mean = sum(p * i / 4 for i, p in enumerate(judge_model.GRADES))
    for verdict in grade(served, readout="expected", stream=stream):
        assert verdict.status == "ok"
        assert verdict.score == pytest.approx(mean, abs=1e-5)


def test_a_reply_that_is_cut_is_repaired_by_a_guided_digit(served):
    _, _, judge_model = served
    for verdict in grade(served, max_tokens=3):
        assert (verdict.status, verdict.grade) == ("repaired", judge_model.REPAIRED)
        assert verdict.attempts == 2


def test_a_longer_prefix_finds_the_shorter_one_in_the_servers_cache(served):
    first, second = grade(served, concurrency=1)
    # Blocks of 128 tokens, each a byte: the first step fills two of them.
    assert second.cached_tokens >= first.cached_tokens + 256


def test_the_server_is_told_which_model_to_use(served):
    url, _, _ = served
    with Judge(JudgeSettings((url,), "another")) as judge:
        (graded,) = judge.submit([ITEM]).result()
    for verdict in graded.verdicts:
        assert verdict.status == "http_error"
        assert "404" in verdict.error and "another" in verdict.error
