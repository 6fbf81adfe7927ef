"""Sampling ahead of the trainer: how far, with which weights, and what happens when it fails.

The engine is a fake that samples at the test's word: time is an order of events here, not seconds.
"""

import dataclasses
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exprl import config
from exprl.errors import EngineError
from exprl.rollout.ahead import Ahead
from exprl.rollout.weight_sync import Probe
from exprl.types import Message, Prompt, Rollout

MINI_BATCHES = 2
N = 2
PROMPTS = [Prompt(f"p{i}", (Message("user", "?"),)) for i in range(3)]
WAIT_S = 20.0
"""Of a thread that hangs: the test then fails."""


class FakePolicy:
    """Its one weight is its version; the log-prob of every token is minus that."""

    def __init__(self, probe):
        self.version = 0
        self.probe = probe
        probe.score_by_policy(self)

    def weights(self):
        yield "weight", float(self.version)

    def logp(self, row, temperature):
        return torch.full((len(row.target_pos),), -float(self.version))

    def learn(self):
        self.version += MINI_BATCHES
        self.probe.score_by_policy(self)


class FakeEngine:
    """Samples the second half of every rollout once `release` names its step."""

    def __init__(self):
        self.policy_version = 0
        self.weight = 0.0
        self.started, self.released = [], {}
        self.loads = []
        self.broken = set()
        self.changed = threading.Condition()
        self.free = False

    def gate(self, step):
        return self.released.setdefault(step, threading.Event())

    def release(self, *steps):
        for step in steps:
            self.gate(step).set()

    def sample(self, prompts, n, seed, temperature, max_response_tokens):
        step = seed
        with self.changed:
            self.started.append(step)
            self.changed.notify_all()
        for prompt in prompts:
            for index in range(n):
                first = self.policy_version
                if not self.free:
                    assert self.gate(step).wait(WAIT_S)
                if step in self.broken and prompt is not prompts[0]:
                    raise EngineError(f"no engine for step {step}")
                yield rollout(prompt.problem_id, index, [first, self.policy_version])

    def await_start(self, step):
        with self.changed:
            assert self.changed.wait_for(lambda: step in self.started, WAIT_S)

    def logp(self, token_ids):
        return [np.full(len(token_ids) - 1, -self.weight, np.float32)]

    def load_weights(self, weights, version):
        self.loads.append((version, [s for s in self.started if not self.gate(s).is_set()]))
        [(_, self.weight)] = weights
        self.policy_version = version

    def sleep(self):
        pass

    def wake(self, part):
        pass


def rollout(problem_id, index, versions):
    n = len(versions)
    return Rollout(
        problem_id,
        index,
        np.zeros(1, np.int32),
        np.full(n, 7, np.int32),
        np.zeros(n, np.float32),
        "stop",
        np.array(versions, np.int32),
    )


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def policy():
    return FakePolicy(Probe(np.arange(5, dtype=np.int32), 0.2))


def gather(sampler):
    """What a step samples, and no judge."""
    return list(sampler.sample(PROMPTS, N, sampler.step, 1.0, 8))


def open_ahead(policy, engine, ahead, *, steps=8, gather=gather, recorded=None, **settings):
    rollout = config.Rollout(ahead=ahead, **settings)
    return Ahead(gather, policy, engine, policy.probe, rollout, steps=steps, recorded=recorded)


def lags(data, policy):
    return {policy.version - int(v) for r in data for v in r.versions}


def test_with_ahead_0_a_step_runs_in_the_callers_thread_and_no_later_one_is_begun(policy, engine):
    threads = []
    engine.free = True
    with open_ahead(
        policy,
        engine,
        0,
        gather=lambda sampler: threads.append(threading.current_thread()) or gather(sampler),
    ) as ahead:
        for step in range(3):
            data = ahead.next(step)
            assert lags(data, policy) == {0}
            assert engine.started == list(range(step + 1))
            policy.learn()
    assert set(threads) == {threading.current_thread()}
    assert [version for version, _ in engine.loads] == [2, 4]


def test_steps_are_begun_as_far_ahead_as_asked_and_not_further(policy, engine):
    with open_ahead(policy, engine, 2, steps=5) as ahead:
        for step in range(5):
            engine.release(step)
            ahead.next(step)
            last = min(step + 2, 4)
            engine.await_start(last)
            assert sorted(engine.started) == list(range(last + 1))
            policy.learn()


def test_a_token_is_at_most_ahead_steps_old_when_its_step_is_trained(policy, engine):
    engine.free = True
    with open_ahead(policy, engine, 2) as ahead:
        found = []
        for step in range(6):
            data = ahead.next(step)
            found.append(max(lags(data, policy)))
            engine.await_start(min(step + 2, 7))
            policy.learn()
    assert found == [0, 2, 4, 4, 4, 4]


def test_new_weights_reach_the_steps_that_are_being_sampled(policy, engine):
    with open_ahead(policy, engine, 1) as ahead:
        engine.release(0)
        ahead.next(0)
        engine.await_start(1)
        policy.learn()
        later = threading.Timer(0.0, lambda: (engine.await_start(2), engine.release(1)))
        later.start()
        data = ahead.next(1)
    assert engine.loads == [(2, [1])]
    assert data[0].versions.tolist() == [0, 2]


def test_between_batches_new_weights_wait_until_everything_begun_is_sampled(policy, engine):
    with open_ahead(policy, engine, 2, in_flight=False) as ahead:
        engine.release(0)
        ahead.next(0)
        engine.await_start(2)
        policy.learn()
        releases = threading.Timer(0.05, lambda: engine.release(1, 2))
        releases.start()
        data = ahead.next(1)
        assert engine.loads == [(2, [])]
        assert lags(data, policy) == {2}


def test_an_exception_of_a_step_is_raised_when_the_trainer_asks_for_it(policy, engine):
    engine.free = True
    engine.broken = {1}
    with open_ahead(policy, engine, 1) as ahead:
        assert len(ahead.next(0)) == len(PROMPTS) * N
        policy.learn()
        with pytest.raises(EngineError, match="no engine for step 1"):
            ahead.next(1)


def test_leaving_gives_up_what_is_on_its_way(policy, engine):
    given_up = threading.Event()
    ended = threading.Event()

    def waits_for_the_judge(sampler):
        sampler.on_cancel(given_up.set)
        data = gather(sampler)
        if sampler.step == 1:
            assert given_up.wait(WAIT_S)
            ended.set()
        return data

    engine.free = True
    with open_ahead(policy, engine, 1, gather=waits_for_the_judge) as ahead:
        ahead.next(0)
        assert not given_up.is_set()
    assert given_up.is_set() and ended.is_set()


def test_a_step_that_was_given_up_ends_at_its_next_rollout(policy, engine):
    with open_ahead(policy, engine, 1) as ahead:
        engine.release(0)
        ahead.next(0)
        engine.await_start(1)
        [step] = ahead._in_flight.values()
        step.sampler.cancel()
        engine.release(1)
        step.thread.join(WAIT_S)
    assert not step.thread.is_alive()
    assert step.sampler.rollouts == []


def test_weights_that_arrive_one_update_late_stop_the_run(policy, engine):
    late = [0.0]

    def load_weights(weights, version):
        [(_, newest)] = weights
        engine.weight, late[0] = late[0], newest
        engine.policy_version = version

    engine.load_weights = load_weights
    engine.free = True
    with open_ahead(policy, engine, 1) as ahead:
        ahead.next(0)
        policy.learn()
        with pytest.raises(EngineError, match="differ by 2 nats"):
            ahead.next(1)


@pytest.mark.parametrize(("versions", "seen"), [([3, 3], "3 to 3"), ([-1, 0], "-1 to 0")])
def test_a_token_of_weights_that_the_engine_cannot_have_had_stops_the_run(
    policy, engine, versions, seen
):
    engine.sample = lambda *_: iter([rollout("p0", 0, versions)])
    with (
        open_ahead(policy, engine, 0) as ahead,
        pytest.raises(EngineError, match=f"policy versions {seen}"),
    ):
        ahead.next(0)


def learn_from(policy, engine, steps, *, start=0, recorded=None, stop=None, **settings):
    """Train to `steps`, or stop before `stop` with what is then in flight."""
    engine.free = True
    found = {}
    with open_ahead(policy, engine, 2, steps=steps, recorded=recorded, **settings) as ahead:
        for step in range(start, steps if stop is None else stop):
            found[step] = seen(ahead.next(step))
            policy.learn()
        return found, ahead.collect_rollouts()


def seen(data):
    """A step's rollouts in one order, whichever came first."""
    return sorted((r.problem_id, r.index, r.versions.tolist()) for r in data)


def test_a_run_that_goes_on_takes_what_was_in_flight_and_samples_none_of_it_again(policy, engine):
    through, nothing = learn_from(policy, engine, 6, in_flight=False)
    assert nothing == {}

    policy = FakePolicy(Probe(np.arange(5, dtype=np.int32), 0.2))
    before, in_flight = learn_from(policy, FakeEngine(), 6, stop=3, in_flight=False)
    assert sorted(in_flight) == [3, 4]

    later = FakeEngine()
    later.policy_version, later.weight = policy.version, float(policy.version)
    after, _ = learn_from(policy, later, 6, start=3, recorded=in_flight, in_flight=False)
    assert before | after == through
    assert later.started == [5]
    assert [version for version, _ in later.loads] == [8, 10]  # not at the start


def test_a_checkpoint_waits_until_what_is_in_flight_is_sampled_but_not_until_it_is_judged(
    policy, engine
):
    graded = threading.Event()

    def judged(sampler):
        data = gather(sampler)
        if sampler.step == 1:
            assert graded.wait(WAIT_S)
        return data

    with open_ahead(policy, engine, 1, gather=judged) as ahead:
        engine.release(0)
        ahead.next(0)
        engine.await_start(1)
        threading.Timer(0.05, lambda: engine.release(1)).start()
        found = ahead.collect_rollouts()
        assert len(found[1]) == len(PROMPTS) * N
        graded.set()


def test_with_redraw_a_checkpoint_waits_for_everything_that_a_step_may_sample(policy, engine):
    further = [Prompt("further", (Message("user", "?"),))]

    graded = threading.Event()

    def twice(sampler):
        data = gather(sampler)
        if sampler.step == 1:
            assert graded.wait(WAIT_S)
        return data + list(sampler.sample(further, N, sampler.step, 1.0, 8))

    engine.free = True
    with open_ahead(policy, engine, 1, gather=twice, redraw=1) as ahead:
        ahead.next(0)
        engine.await_start(1)
        threading.Timer(0.05, graded.set).start()
        found = ahead.collect_rollouts()
        names = {r.problem_id for r in found[1]}
        assert names == {"p0", "p1", "p2", "further"}
        started = list(engine.started)

    with open_ahead(policy, engine, 1, gather=twice, redraw=1, recorded=found) as ahead:
        assert seen(ahead.next(1)) == seen(found[1])
        engine.await_start(2)
        assert engine.started.count(1) == started.count(1)


def test_a_problem_of_which_a_rollout_failed_is_sampled_again_whole(policy, engine):
    def sample(prompts, *rest):
        for one in FakeEngine.sample(engine, prompts, *rest):
            failed = (one.problem_id, one.index) == ("p1", 0) and not mended
            yield dataclasses.replace(one, finish_reason="failed") if failed else one

    mended = []
    engine.free, engine.sample = True, sample
    with open_ahead(policy, engine, 1) as ahead:
        ahead.next(0)
        found = ahead.collect_rollouts()
    assert {r.problem_id for r in found[1]} == {"p0", "p2"}

    mended.append(True)
    with open_ahead(policy, engine, 1, recorded=found) as ahead:
        data = ahead.next(1)
    assert len(data) == len(PROMPTS) * N
    assert {r.finish_reason for r in data} == {"stop"}


def test_a_step_that_failed_in_flight_is_not_in_the_checkpoint(policy, engine):
    engine.free, engine.broken = True, {1}
    with open_ahead(policy, engine, 2) as ahead:
        ahead.next(0)
        assert sorted(ahead.collect_rollouts()) == [2]


@settings(max_examples=40, deadline=None)
@given(
    ahead=st.integers(0, 4),
    steps=st.integers(1, 7),
    in_flight=st.booleans(),
    delays=st.lists(st.integers(0, 3), min_size=40, max_size=40),
)
def test_whatever_the_order_of_events_steps_come_in_turn_and_lag_is_bounded(
    ahead, steps, in_flight, delays
):
    policy = FakePolicy(Probe(np.arange(5, dtype=np.int32), 0.2))
    engine = FakeEngine()
    engine.free = True
    waits = iter(delays * 100)
    done = [0]

    def uneven(sampler):
        assert done[0] <= sampler.step <= done[0] + ahead
        data = []
        for one in sampler.sample(PROMPTS, N, sampler.step, 1.0, 8):
            time.sleep(next(waits) * 1e-4)
            data.append(one)
        time.sleep(next(waits) * 1e-4)
        return sampler.step, data

    with open_ahead(policy, engine, ahead, steps=steps, gather=uneven, in_flight=in_flight) as one:
        for step in range(steps):
            number, data = one.next(step)
            assert number == step
            found = lags(data, policy)
            assert 0 <= min(found) <= max(found) <= ahead * MINI_BATCHES
            if not in_flight:
                assert len(found) == 1 and max(found) == min(step, ahead) * MINI_BATCHES
            policy.learn()
            done[0] += 1
    assert engine.policy_version == max(0, steps - 1) * MINI_BATCHES


def test_seconds_say_who_waited_for_whom(policy, engine):
    now = SimpleNamespace(t=0.0)

    def slow(sampler):
        data = gather(sampler)
        now.t += 10.0
        with sampler.timed("judge"):
            now.t += 5.0
        return data

    def sample(*args):
        for one in FakeEngine.sample(engine, *args):
            now.t += 1.0
            yield one

    engine.free = True
    engine.sample = sample
    own = config.Rollout()
    with Ahead(slow, policy, engine, policy.probe, own, steps=2, now=lambda: now.t) as ahead:
        ahead.next(0)
    assert ahead.seconds == {"sync": 0.0, "trainer_wait": 21.0, "rollout": 6.0, "judge": 5.0}
    assert ahead.engine_seconds() == 6.0
