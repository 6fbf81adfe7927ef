"""What passes between trainer and child, and how the child ends; its engine is a stand-in."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError, EngineError
from exprl.rollout import child
from exprl.rollout.child import ChildEngine, second_gpu
from exprl.rollout.engine import rollout_seed
from exprl.rollout.shared_weights import clear, open_memory, read_weights, write_weights
from exprl.types import Message, Prompt

MODEL = config.Model(path="examples/division/base", dtype="float32")
ROLLOUT = config.Rollout(max_prompt_tokens=32, max_response_tokens=96)
FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
PROMPTS = [Prompt(f"p{i}", (Message("user", f"{i})106973="),)) for i in range(4)]
LONG = 100_000


def opened(weights="some"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "COMMAND", FAKE)
        return ChildEngine(MODEL, ROLLOUT, tokenizer=load_tokenizer(MODEL), weights=weights)


@pytest.fixture(scope="module")
def engine():
    """For tests that leave it alive and idle."""
    one = opened()
    yield one
    one.close()


@pytest.fixture
def mortal():
    one = opened()
    yield one
    one.close()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] == "Z"


def eventually(is_true, seconds=20.0):
    """Whether it comes true; waiting for long is no failure, waiting for ever is."""
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.02)
    return is_true()


def test_each_rollout_has_its_own_prompt_index_and_seed(engine):
    rollouts = list(engine.sample(PROMPTS, 3, 7, 1.0, 4))
    assert sorted((r.problem_id, r.index) for r in rollouts) == [
        (f"p{i}", j) for i in range(4) for j in range(3)
    ]
    for one in rollouts:
        wanted = rollout_seed(7, one.problem_id, one.index) % 1000
        assert one.token_ids.tolist() == [wanted] * 4
        assert one.prompt_ids.tolist() == engine.tokenizer.encode(
            f"<bos>{one.problem_id[1:]})106973=", add_special_tokens=False
        )
        assert one.versions.tolist() == [engine.policy_version] * 4
        assert one.finish_reason == "length"


def test_calls_of_several_threads_at_once_get_what_each_asked_for(engine):
    found = {}

    def ask(seed):
        found[seed] = list(engine.sample(PROMPTS, 8, seed, 1.0, 3 + seed))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for seed, rollouts in found.items():
        assert len(rollouts) == 32
        assert {len(r.token_ids) for r in rollouts} == {3 + seed}
        for one in rollouts:
            assert one.token_ids[0] == rollout_seed(seed, one.problem_id, one.index) % 1000


def test_a_rollout_comes_while_another_is_sampled_which_is_aborted_when_nobody_waits(engine):
    stands = np.zeros(LONG, np.int32)
    beginnings = [("long", PROMPTS[0], stands[:0]), ("short", PROMPTS[1], stands)]
    rollouts = engine.sample_continuations(beginnings, 1, 0, 1.0, LONG + 2)
    assert next(rollouts).problem_id == "short"
    [running] = engine.logp(np.array([1, 2], np.int32))
    assert running.tolist() == [1.0]
    rollouts.close()
    [running] = engine.logp(np.array([1, 2], np.int32))
    assert running.tolist() == [0.0]


def test_new_weights_reach_rollouts_in_flight_and_each_token_names_its_own(engine):
    engine.load_weights(iter({"a": torch.zeros(1)}.items()), 0)
    found = []
    sampling = threading.Thread(
        target=lambda: found.extend(engine.sample(PROMPTS, 2, 0, 1.0, 1000))
    )
    sampling.start()
    shared = torch.ones(3)
    for version in (1, 2):
        weights = {"a": shared * version, "tied": shared, "b": torch.ones(2, dtype=torch.bfloat16)}
        time.sleep(0.1)
        engine.load_weights(iter(weights.items()), version)
    sampling.join()
    total = np.array([0.0, 8.0, 11.0], np.float32)
    for one in found:
        assert np.array_equal(one.generator_logp, total[one.versions])
        assert (np.diff(one.versions) >= 0).all()
    assert {v for r in found for v in r.versions.tolist()} == {0, 1, 2}
    assert engine.policy_version == 2
    assert os.fstat(engine._memory).st_size == 0


def test_a_version_that_is_named_is_the_one_that_rollouts_carry(engine):
    engine.policy_version = 40
    assert {v for r in engine.sample(PROMPTS, 1, 0, 1.0, 2) for v in r.versions} == {40}


def test_weights_pass_in_parts_bit_by_bit():
    memory = open_memory()
    named = {f"w{i}": torch.randn(100, 3) for i in range(7)} | {"h": torch.ones(5).bfloat16()}
    named["tied"] = named["w0"]
    named["column"] = torch.randn(4, 6).T
    sizes = write_weights(memory, iter(named.items()), part_bytes=3000)
    assert len(sizes) > 2
    found = dict(read_weights(memory, sizes))
    assert found.keys() == named.keys()
    assert all(torch.equal(found[name], value) for name, value in named.items())
    clear(memory)
    assert os.fstat(memory).st_size == 0
    assert len(write_weights(memory, iter(named.items()))) == 1
    os.close(memory)


@pytest.mark.parametrize(
    ("weights", "said"), [("refuse", "^no such weights$"), ("crash", "the engine came down")]
)
def test_a_child_that_cannot_start_says_why(weights, said):
    with pytest.raises(EngineError, match=said):
        opened(weights)


def test_a_child_that_ends_tells_every_caller_with_what_it_said_last(mortal, monkeypatch):
    rollouts = mortal.sample(PROMPTS, 1, 0, 1.0, LONG)
    errors = []

    def ask():
        try:
            list(rollouts)
        except EngineError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    monkeypatch.setattr(child, "rollout_seed", lambda *_: 666)
    with pytest.raises(EngineError, match=r"ended with code 1(.|\n)*the engine met seed 666"):
        list(mortal.sample(PROMPTS, 1, 0, 1.0, 5))
    thread.join()
    assert "seed 666" in errors[0]
    for ask_again in (
        lambda: list(mortal.sample(PROMPTS, 1, 0, 1.0, 5)),
        lambda: mortal.logp(np.array([1, 2], np.int32)),
        lambda: mortal.load_weights(iter({"a": torch.ones(1)}.items()), 1),
    ):
        with pytest.raises(EngineError, match="seed 666"):
            ask_again()


def test_closing_ends_the_process_and_whoever_waits_for_it(mortal):
    pid = mortal._child._process.pid
    errors = []

    def ask():
        try:
            list(mortal.sample(PROMPTS, 1, 0, 1.0, LONG))
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)
    mortal._child.end()
    thread.join()
    assert errors and gone(pid)


def test_ctrl_c_is_for_the_parent(engine):
    pid = engine._child._process.pid
    os.kill(pid, signal.SIGINT)
    assert len(list(engine.sample(PROMPTS, 1, 0, 1.0, 5))) == 4


PARENT = """
import os, sys, time
sys.path.insert(0, {here!r})
import test_child
from exprl.rollout import child
child.COMMAND = test_child.FAKE
engine = child.ChildEngine(
    test_child.MODEL, test_child.ROLLOUT, tokenizer=test_child.load_tokenizer(test_child.MODEL),
    weights="some",
)
pid = engine._child._process.pid
holder = os.fork()  # it has the pipe to the child's stdin open
if holder == 0:
    time.sleep(600)
    os._exit(0)
print(pid, holder, flush=True)
list(engine.sample(test_child.PROMPTS, 1, 0, 1.0, 10**5))
"""


def test_a_child_ends_with_a_parent_that_is_killed_though_its_stdin_stays_open():
    code = textwrap.dedent(PARENT).format(here=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    holder = None
    try:
        pid, holder = map(int, parent.stdout.readline().split())
        assert not gone(pid)
        parent.kill()
        parent.wait()
        assert eventually(lambda: gone(pid))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        if holder:
            os.kill(holder, signal.SIGKILL)


def test_one_gpu_is_the_trainers():
    with pytest.raises(ConfigError, match="needs a GPU beside the trainer's"):
        second_gpu("3", 1)
