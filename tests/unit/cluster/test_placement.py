"""Who computes on which GPUs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exprl import config
from exprl.cluster.placement import LEADER, Machine, Need, Seat, list_needs, place
from exprl.errors import ConfigError

SERVERS = config.Engine(kind="servers", count=2, gpus_each=2)
JUDGE = config.JudgeServe(model="judge", count=1, gpus_each=4)


def needs_of(ranks: int, servers: list[int], judges: list[int]) -> list[Need]:
    return [
        *(Need("rank", i, 1) for i in range(ranks)),
        *(Need("policy", i, gpus) for i, gpus in enumerate(servers)),
        *(Need("judge", i, gpus) for i, gpus in enumerate(judges)),
    ]


sizes = st.lists(st.integers(1, 8), max_size=4)
some_needs = st.builds(needs_of, st.integers(1, 9), sizes, sizes)
some_machines = st.lists(st.integers(0, 16), min_size=1, max_size=4).map(
    lambda counts: [Machine(f"10.0.0.{i}", gpus) for i, gpus in enumerate(counts)]
)


@given(some_needs, some_machines)
def test_no_gpu_is_given_twice_and_a_process_has_all_of_its_gpus_on_one_machine(
    needs: list[Need], machines: list[Machine]
) -> None:
    try:
        seats = place(needs, machines)
    except ConfigError:
        return
    assert list(seats) == [need.name for need in needs]
    assert seats[LEADER].host == machines[0].host
    on_gpus = any(machine.gpus for machine in machines)
    for need in needs:
        assert len(seats[need.name].gpus) == (need.gpus if on_gpus else 0)
    for machine in machines:
        given_out = [g for s in seats.values() if s.host == machine.host for g in s.gpus]
        assert sorted(given_out) == list(range(len(given_out)))
        assert len(given_out) <= machine.gpus


@given(some_needs, some_machines)
def test_a_refusal_is_for_want_of_gpus(needs: list[Need], machines: list[Machine]) -> None:
    total = sum(machine.gpus for machine in machines)
    wanted = sum(need.gpus for need in needs)
    try:
        place(needs, machines)
    except ConfigError as error:
        assert total > 0
        assert str(wanted) in str(error) or wanted <= total
    else:
        assert wanted <= total or total == 0


@given(st.integers(1, 8), sizes)
def test_one_machine_is_used_to_its_last_gpu(ranks: int, servers: list[int]) -> None:
    needs = needs_of(ranks, servers, [])
    seats = place(needs, [Machine("here", sum(need.gpus for need in needs))])
    order = [gpu for seat in seats.values() for gpu in seat.gpus]
    assert order == list(range(len(order)))  # neighbours belong to one process or one group


def test_ranks_share_the_machine_of_the_leader_and_servers_leave_it_to_them() -> None:
    needs = list_needs(config.Ranks(count=8), SERVERS, JUDGE)
    seats = place(needs, [Machine("a", 8), Machine("b", 8)])
    assert {seats[f"rank-{i}"].host for i in range(8)} == {"a"}
    assert {seats[n.name].host for n in needs if n.role != "rank"} == {"b"}
    taken = sorted(seats[n.name].gpus for n in needs if n.role != "rank")
    assert all(set(a).isdisjoint(b) for a, b in pairwise(taken))


def test_a_large_server_finds_its_machine_although_small_ones_are_listed_first() -> None:
    seats = place(needs_of(1, [2, 2, 8], []), [Machine("a", 5), Machine("b", 8)])
    assert seats["policy-2"] == Seat("b", tuple(range(8)))


def test_the_refusal_counts_what_each_part_of_the_run_wants() -> None:
    needs = list_needs(config.Ranks(count=2), SERVERS, JUDGE)
    with pytest.raises(ConfigError) as refused:
        place(needs, [Machine("127.0.0.1", 8)])
    said = str(refused.value)
    assert "the run wants 10 GPUs, and there are 8 (this machine: 8)" in said
    assert "2 for the trainer (ranks.count = 2)" in said
    assert "4 for servers of the policy (engine.count = 2 x engine.gpus_each = 2)" in said
    assert "4 for servers of the judge (judge.serve.count = 1 x judge.serve.gpus_each = 4)" in said


def test_gpus_of_two_machines_are_not_one_server() -> None:
    with pytest.raises(ConfigError, match="policy-0 wants 6 GPUs of one machine and 4 are free"):
        place(needs_of(1, [6], []), [Machine("a", 5), Machine("b", 4)])


def test_the_trainer_is_not_moved_away_from_the_users_process() -> None:
    with pytest.raises(ConfigError, match=r"rank-0 wants 1 GPU of this process's machine, head"):
        place(needs_of(1, [1], []), [Machine("head", 0), Machine("b", 8)])


def test_without_a_gpu_everything_runs_on_cpus_and_servers_take_turns() -> None:
    seats = place(needs_of(2, [1, 1], [1]), [Machine("a", 0), Machine("b", 0)])
    assert [seat.host for seat in seats.values()] == ["a", "a", "b", "a", "b"]
    assert not any(seat.gpus for seat in seats.values())


def test_nothing_is_needed_beside_the_trainer_where_servers_run_already() -> None:
    engine = config.Engine(kind="servers", urls=("http://10.0.0.2:8000",))
    assert list_needs(config.Ranks(), engine, None) == (Need("rank", 0, 1),)


def test_a_seat_names_its_gpus_where_it_is_this_machine_that_chooses() -> None:
    assert Seat("127.0.0.1", (1, 2)).describe() == "GPU 1, 2 of this machine"
    assert Seat("10.0.0.7", (1, 2)).describe() == "2 GPUs of 10.0.0.7"
    assert Seat("127.0.0.1", ()).describe() == "the CPUs of this machine"
