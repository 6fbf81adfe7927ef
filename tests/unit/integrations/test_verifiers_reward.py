"""The judge as a reward of verifiers' tasks.

verifiers 0.4.0 brings a stack of its own, so it is no requirement of the tests. Where it can be
imported, its own Task scores its own Trace, with the function plugged in by its import path; else
`PinnedTask` does what verifiers/v1/task.py and verifiers/v1/utils/decorators.py of 0.4.0 do with a
plugged reward: it passes what the signature names, and an exception leaves the reward None.
"""

import asyncio
import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from exprl.errors import ConfigError
from exprl.integrations.verifiers import JudgeReward
from exprl.judge import JudgeSettings, RuleJudge

try:
    import verifiers.v1 as vf
except ImportError:
    vf = None

RIGHT, WRONG = "3 + 4 = 7\n\nThe answer is 7.", "3 + 4 = 7\n\nThe answer is 8."
judged: JudgeReward | None = None
"""What the task's settings name: `test_verifiers_reward:judged`."""


@pytest.fixture
def plug(monkeypatch):
    """Open the reward under the name that the settings have."""
    with RuleJudge("numbers") as server:

        def open_reward(view="outcome", rule="paragraph", **others):
            settings = JudgeSettings((server.url,), server.model, view=view, attempts=1, **others)
            monkeypatch.setitem(globals(), "judged", JudgeReward(settings, rule))
            return server

        yield open_reward


@dataclass
class PinnedTask:
    data: SimpleNamespace

    async def score(self, trace):
        available = {"task": self.data, "trace": trace}
        trace.rewards["judged"] = None
        names = inspect.signature(judged).parameters
        value = await judged(**{name: available[name] for name in names if name in available})
        trace.rewards["judged"] = SimpleNamespace(value=float(value))


@dataclass
class PinnedTrace:
    last_reply: str
    info: dict = field(default_factory=dict)
    rewards: dict = field(default_factory=dict)


def score(reply, **data):
    """The trace of a reply, scored."""
    task, trace = pinned(reply, data) if vf is None else real(reply, data)
    asyncio.run(task.score(trace))
    return trace


def pinned(reply, data):
    fields = {"idx": 0, "prompt_text": "What is 3 + 4?", **data}
    return PinnedTask(SimpleNamespace(**fields)), PinnedTrace(reply)


def real(reply, data):
    class Data(vf.WireTaskData):
        pass

    settings = vf.TaskConfig(rewards={"judged": {"fn": f"{__name__}:judged"}})
    task = vf.Task(Data(idx=0, prompt="What is 3 + 4?", **data), settings)
    answer = vf.MessageNode(message=vf.AssistantMessage(content=reply), sampled=True)
    about = {"task": {"type": "Task", "data": task.data}, "agent": {"config": {}}}
    return task, vf.Trace(nodes=[answer], **about)


def test_a_right_reply_scores_1_and_a_wrong_one_0(plug):
    plug()
    assert score(RIGHT, reference="3 + 4 = 7").rewards["judged"].value == 1.0
    assert score(WRONG, reference="3 + 4 = 7").rewards["judged"].value == 0.0


def test_the_reward_of_steps_is_their_mean_and_each_score_stays_on_the_trace(plug):
    plug("prefix")
    trace = score(WRONG, reference="3 + 4 = 7")
    assert trace.info["exprl_scores"] == [1.0, 0.0]
    assert trace.rewards["judged"].value == 0.5


def test_a_reply_without_a_grade_is_an_error_and_no_reward(plug):
    plug(deadline_s=1.0).close()
    with pytest.raises(Exception, match=r"the reply has no score: .+"):
        score(RIGHT, reference="3 + 4 = 7")


def test_data_without_a_reference_is_refused(plug):
    plug()
    with pytest.raises(Exception, match="has no field 'reference'") as refused:
        score(RIGHT, solution="3 + 4 = 7")
    assert isinstance(refused.value.__cause__ or refused.value, ConfigError)
