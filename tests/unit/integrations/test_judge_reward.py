"""A judge as the reward function of a trainer that is not ours: what goes in and what comes out."""

import asyncio
import subprocess
import sys

import pytest

from exprl.errors import ConfigError, JudgeError
from exprl.integrations.grading import Assessment, Grader
from exprl.integrations.messages import as_text
from exprl.integrations.trl import JudgeReward
from exprl.judge import JudgeItem, JudgeSettings, RuleJudge

PROMPT = [{"role": "system", "content": "Think."}, {"role": "user", "content": "What is 3 + 4?"}]
RIGHT, WRONG = "### 3 + 4 = 7 ### So it is 7.", "### 3 + 4 = 8 ### So it is 8."


@pytest.fixture
def server():
    with RuleJudge("numbers") as judge:
        yield judge


def settings(server, **others):
    return JudgeSettings((server.url,), server.model, **{"view": "outcome", **others})


def reward(function, completions, **columns):
    rows = {"prompts": [PROMPT], "reference": ["3 + 4 = 7"], **columns}
    batch = {name: values * len(completions) for name, values in rows.items()}
    return asyncio.run(function(completions=completions, **batch))


def test_a_right_completion_scores_1_and_a_wrong_one_0(server):
    assert reward(JudgeReward(settings(server)), [RIGHT, WRONG]) == [1.0, 0.0]


def test_chat_messages_are_graded_by_what_they_say(server):
    chat = [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}, {"type": "image"}]}]
    assert reward(JudgeReward(settings(server)), [chat]) == [1.0]
    assert as_text([{"content": None}, {"content": "a"}, {"content": "b"}]) == "a\n\nb"


def test_the_hidden_solution_comes_from_the_column_that_is_named(server):
    function = JudgeReward(settings(server), reference="solution")
    assert reward(function, [RIGHT, WRONG], solution=["3 + 4 = 8"]) == [0.0, 1.0]


def test_a_column_that_is_not_there_is_named_beside_those_that_are(server):
    with pytest.raises(ConfigError, match=r"no column 'solution' \(it has 'reference'\)"):
        reward(JudgeReward(settings(server), reference="solution"), [RIGHT])


def test_the_judge_is_shown_the_last_message_or_the_column_of_the_problem(server, tmp_path):
    shown = []

    class Recorder(Grader):
        async def grade(self, items):
            shown.extend(item.problem for item in items)
            return await super().grade(items)

    function = JudgeReward(settings(server))
    function._grader = Recorder(settings(server))
    reward(function, [RIGHT])
    reward(function, [RIGHT], prompts=["<bos>3+4"])
    reward(function, [RIGHT], problem=["3 + 4 = ?"])
    assert shown == ["What is 3 + 4?", "<bos>3+4", "3 + 4 = ?"]


def test_the_reward_of_steps_is_their_mean(server):
    function = JudgeReward(settings(server, view="prefix"))
    [mean] = reward(function, ["Let me see. ### 3 + 4 = 7 ### The answer is 8."])
    assert [one.scores for one in function.assessed] == [(0.5, 1.0, 0.0)]
    assert mean == 0.5


def test_one_number_needs_the_last_score_and_leaves_out_the_steps_without_one():
    assert Assessment((0.25, None, 1.0)).reward == 0.625
    assert Assessment((0.25, None)).reward is None
    assert Assessment((0.5,)).reward == 0.5


def test_an_empty_completion_scores_0_and_is_not_sent(server):
    thinking = "<think>3 + 4 = 7"
    assert reward(JudgeReward(settings(server)), ["", " \n", thinking, RIGHT]) == [0, 0, 0, 1.0]
    assert server.stats()["requests"] == 1
    with_thinking = JudgeReward(settings(server, show_thinking=True))
    assert reward(with_thinking, [thinking]) == [1.0]


def test_a_grade_that_does_not_come_is_none_and_counted():
    logged = {}
    with RuleJudge("numbers", no_grade_rate=0.5) as server:
        function = JudgeReward(settings(server, attempts=1))
        completions = [f"{RIGHT} {'!' * i}" for i in range(20)]
        columns = {"prompts": [PROMPT] * 20, "reference": ["3 + 4 = 7"] * 20}
        rewards = asyncio.run(
            function(completions=completions, log_metric=logged.__setitem__, **columns)
        )
        missing = server.stats()["no_grade"]
    assert set(rewards) == {None, 1.0}
    assert logged == {"judge/missing_rate": rewards.count(None) / 20}
    assert missing >= rewards.count(None)


def test_a_dead_judge_ends_the_training_and_says_why(server):
    server.close()
    grader = Grader(settings(server, attempts=1, deadline_s=20.0))
    item = JudgeItem("0", "What is 3 + 4?", "3 + 4 = 7", (RIGHT,))
    asyncio.run(grader.grade([item] * 40))  # too few to tell
    with pytest.raises(JudgeError, match=r"100% of the last 64 completions .*commonest reason"):
        asyncio.run(grader.grade([item] * 40))


def test_a_grade_that_the_score_map_leaves_out_does_not_end_the_training(server):
    grader = Grader(settings(server, view="prefix", score_map="extremes"), max_missing_rate=0.0)
    nothing_computed = JudgeItem("0", "What is 3 + 4?", "3 + 4 = 7", ("Let me see.",))
    assessed = asyncio.run(grader.grade([nothing_computed] * 70))
    assert {one.scores for one in assessed} == {(None,)}


def test_each_process_has_a_ledger_of_its_own(server, tmp_path):
    """As the ranks of a trainer do, which are given the same settings."""
    mine = settings(server, ledger=str(tmp_path / "ledger"))
    grader = Grader(mine)
    code = (
        "import json, sys; from exprl.judge import JudgeSettings;"
        "from exprl.integrations.grading import Grader;"
        "print(Grader(JudgeSettings(**json.loads(sys.argv[1]))).judge.settings.ledger)"
    )
    command = [sys.executable, "-c", code, mine.to_json()]
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert second.stdout.strip() == f"{mine.ledger}-2"
    grader.judge.close()
