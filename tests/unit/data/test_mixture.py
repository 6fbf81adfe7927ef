"""Which problems a step takes: epochs of each source, mixed by weight, from (seed, step) alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exprl import config
from exprl.data import mixture
from exprl.types import Problem, Prompt


def problems(*counts):
    return [
        Problem(f"{source}/{i}", Prompt(f"{source}/{i}", ()), None, "math", source=source)
        for source, count in enumerate(counts)
        for i in range(count)
    ]


def ids(found):
    return [problem.id for problem in found]


def test_one_source_is_the_plain_row_of_epochs():
    own = problems(7)
    for step in range(10):
        found = mixture.draw_problems(own, [0.3], 3, seed=4, step=step)
        assert ids(found) == [
            f"0/{i}" for i in mixture.draw_from_epochs(7, lambda steps: 3 * steps, 4, step)
        ]


def test_sources_that_weigh_as_much_as_their_rows_are_mixed_as_one_file():
    own = problems(30, 6, 12)
    parts = [config.MixedSource(path="x", weight=weight) for weight in ("rows", "rows", 12.0)]
    weights = mixture.source_weights(parts, own)
    assert weights == [30.0, 6.0, 12.0]
    # One epoch of all rows takes every problem once.
    epoch = [p for step in range(6) for p in mixture.draw_problems(own, weights, 8, 0, step)]
    assert sorted(ids(epoch)) == sorted(ids(own))


def test_a_source_weighs_its_rows_or_a_positive_number():
    for wrong in (0.0, -1.0, "row"):
        with pytest.raises(ValueError, match="weight"):
            config.MixedSource(path="x", weight=wrong)


def test_further_problems_are_new_of_the_same_source_and_the_same_every_time():
    own = problems(6, 4)
    taken = [own[0], own[1], own[7]]
    found = mixture.draw_further(own, taken, taken, seed=3, step=5)
    assert sorted(found) == ["0/0", "0/1", "1/1"]
    assert [p.source for p in found.values()] == [0, 0, 1]
    assert len({p.id for p in [*taken, *found.values()]}) == 6
    assert found == mixture.draw_further(own, taken, taken, seed=3, step=5)
    others = [mixture.draw_further(own, taken, taken, seed=3, step=step) for step in range(6, 12)]
    assert any(found != other for other in others)


def test_a_source_that_has_no_more_problems_leaves_its_place_as_it_is():
    own = problems(2, 3)
    taken = [own[0], own[1], own[2]]
    assert list(mixture.draw_further(own, taken, taken, seed=0, step=0)) == ["1/0"]
    assert mixture.draw_further(own, own, own, seed=0, step=0) == {}


@given(
    weights=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5),
    per_step=st.integers(1, 9),
    step=st.integers(0, 40),
)
def test_every_step_is_full_and_no_share_ever_falls(weights, per_step, step):
    before = mixture.split_count(step * per_step, weights)
    after = mixture.split_count((step + 1) * per_step, weights)
    assert sum(before) == step * per_step
    assert sum(after) == (step + 1) * per_step
    assert all(b <= a for b, a in zip(before, after, strict=True))


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=4), cycles=st.integers(1, 5))
def test_whole_cycles_hold_exactly_the_weights(weights, cycles):
    assert mixture.split_count(cycles * sum(weights), weights) == [cycles * w for w in weights]


def test_every_problem_of_a_source_comes_once_before_any_comes_twice():
    own, weights = problems(5, 11, 3), [1.0, 2.5, 0.5]
    row = [p for step in range(60) for p in mixture.draw_problems(own, weights, 4, 0, step)]
    for source, count in enumerate((5, 11, 3)):
        mine = [p.id for p in row if p.source == source]
        epochs = [mine[i : i + count] for i in range(0, len(mine) - count + 1, count)]
        assert len(epochs) >= 2
        assert all(len(set(epoch)) == count for epoch in epochs)


def test_no_step_holds_a_problem_twice():
    own, weights = problems(5, 11, 4), [1.0, 2.5, 0.7]
    for step in range(60):
        found = ids(mixture.draw_problems(own, weights, 6, 3, step))
        assert len(set(found)) == 6


def test_a_step_needs_nothing_but_seed_and_step():
    own, weights = problems(50, 50), [1.0, 1.0]
    first = ids(mixture.draw_problems(own, weights, 8, 0, 5))
    assert first == ids(mixture.draw_problems(own, weights, 8, 0, 5))
    assert first != ids(mixture.draw_problems(own, weights, 8, 1, 5))
    # Sources of the same size are not shuffled alike.
    assert len({name.split("/")[1] for name in first}) > 4


def test_sources_alternate_within_a_step():
    """A step is cut into mini-batches in its order; each should see the mixture."""
    found = mixture.draw_problems(problems(20, 20), [1.0, 1.0], 8, 0, 0)
    assert [p.source for p in found] == [0, 1] * 4


@pytest.mark.parametrize(("total", "expected"), [(0, [0, 0]), (1, [1, 0]), (2, [1, 1])])
def test_small_totals(total, expected):
    assert mixture.split_count(total, [3, 2]) == expected


def test_a_weight_of_nearly_nothing_still_comes_round():
    sources = Counter(
        p.source
        for step in range(100)
        for p in mixture.draw_problems(problems(9, 9), [99, 1], 4, 0, step)
    )
    assert sources == {0: 396, 1: 4}
