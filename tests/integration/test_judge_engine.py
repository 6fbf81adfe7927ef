"""The judge against a real server of `exprl serve`: chat template, log-probs, re-ask, cache, token.

The model (examples/tiny/make_judge.py) replies `Score: n` with known probabilities.
"""

import sys

import pytest
import servers

from exprl.judge import Judge, JudgeItem, JudgeSettings, Verdict, split

pytestmark = pytest.mark.engine

MODEL = "tiny-judge"
ITEM = JudgeItem(
    "0", "What is 2 + 2?", "2 + 2 = 4", split("### " + "Two and two are " * 30 + "### 4.")
)


@pytest.fixture(scope="module")
def make_judge(repo):
    sys.path.insert(0, str(repo / "examples" / "tiny"))
    import make_judge

    return make_judge


@pytest.fixture(scope="module")
def served(make_judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    make_judge.main(folder / "model")
    settings = {
        "kind": "server",
        "model": MODEL,
        "serve.model": folder / "model",
        "serve.args": "{dtype = 'float32', max_model_len = 8192, max_num_seqs = 16}",
    }
    words = [f"judge.{key}={value}" for key, value in settings.items()]
    with servers.served(folder, *words, "--role", "judge") as server:
        yield server


def ask_judge(served, model, **settings):
    return Judge(JudgeSettings((f"{served.url}/v1",), model, api_key_env="KEY", **settings))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KEY", servers.TOKEN)


def grade(served, **settings) -> list[Verdict]:
    with ask_judge(served, MODEL, **settings) as judge:
        (graded,) = judge.submit([ITEM]).result()
    return list(graded.verdicts)


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_readout_is_the_likeliest_grade(served, stream):
    for verdict in grade(served, stream=stream):
        assert (verdict.status, verdict.grade, verdict.score) == ("ok", 4, 0.75)
        assert verdict.reply == "Score: 4"


@pytest.mark.parametrize("stream", [False, True])
def test_the_expected_readout_is_the_mean_under_the_models_own_probabilities(
    served, make_judge, stream
):
    mean = sum(p * i / 4 for i, p in enumerate(make_judge.GRADES))
    for verdict in grade(served, readout="expected", stream=stream):
        assert verdict.status == "ok"
        assert verdict.score == pytest.approx(mean, abs=1e-5)


def test_a_reply_that_is_cut_is_repaired_by_a_guided_digit(served, make_judge):
    for verdict in grade(served, max_tokens=3):
        assert (verdict.status, verdict.grade) == ("repaired", make_judge.REPAIRED)
        assert verdict.attempts == 2


def test_a_longer_prefix_finds_the_shorter_one_in_the_servers_cache(served):
    first, second = grade(served, concurrency=1)
    # Blocks of 128 tokens, each a byte: the first step fills two of them.
    assert second.cached_tokens >= first.cached_tokens + 256


def test_with_one_digit_each_all_prefixes_cost_about_one_trace(served):
    steps = "".join(f"### Step {i}: " + "two and two are four. " * 12 for i in range(8))
    item = ITEM._replace(segments=split(steps))
    with ask_judge(served, MODEL, readout="direct", concurrency=1) as judge:
        (graded,) = judge.submit([item]).result()
        fallbacks = judge.stats().readout_fallbacks
    verdicts = graded.verdicts
    assert len(verdicts) == 8
    for verdict in verdicts:
        assert (verdict.status, verdict.completion_tokens) == ("ok", 1)
        assert verdict.grade in range(1, 6) and 0.0 <= verdict.score <= 1.0
    assert fallbacks == 0, "the server keeps to the digits"
    sent = [verdict.prompt_tokens for verdict in verdicts]
    fresh = sum(sent) - sum(verdict.cached_tokens for verdict in verdicts)
    print(f"{sum(sent)} prompt tokens, {fresh} of them computed; the longest prompt has {sent[-1]}")
    assert sum(sent) > 5 * sent[-1]
    assert fresh < 1.5 * sent[-1]


def test_the_server_is_told_which_model_to_use(served):
    with ask_judge(served, "another") as judge:
        (graded,) = judge.submit([ITEM]).result()
    for verdict in graded.verdicts:
        assert verdict.status == "http_error"
        assert "404" in verdict.error and "another" in verdict.error


def test_a_judge_server_asks_for_the_token_and_lets_no_weights_in(served):
    assert served.ask("/v1/models", token=None)[0] == 401
    assert served.ask("/v1/models")[1]["data"][0]["id"] == MODEL
    for path in ("/pause", "/update_weights", "/collective_rpc"):
        assert served.ask(path, {})[0] == 404
