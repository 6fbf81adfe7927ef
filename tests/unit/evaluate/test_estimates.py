"""The estimators: hand cases, brute force, simulation, coverage of the intervals."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exprl.evaluate import estimates
from exprl.evaluate.estimates import bootstrap_interval, majority_curve, pass_at_k, pass_curve


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),
        (4, 2, 2, 5 / 6),  # 1 - C(2,2) / C(4,2)
        (4, 3, 2, 1.0),  # two samples cannot both miss
        (5, 2, 3, 0.9),  # 1 - C(3,3) / C(5,3)
        (10, 0, 10, 0.0),
        (10, 1, 10, 1.0),
        (128, 64, 1, 0.5),
    ],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    rng, n, k, rate = random.Random(0), 16, 4, 0.1
    counts = [sum(rng.random() < rate for _ in range(n)) for _ in range(20_000)]
    estimate = np.mean([pass_at_k(n, c, k) for c in counts])
    assert estimate == pytest.approx(1 - (1 - rate) ** k, abs=0.006)
    plug_in = np.mean([1 - (1 - c / n) ** k for c in counts])
    assert abs(plug_in - (1 - (1 - rate) ** k)) > 0.015, "the naive estimate is what it corrects"


@pytest.mark.parametrize(("n", "c", "k"), [(10_000, 1, 5_000), (100_000, 3, 1), (4096, 4095, 4095)])
def test_pass_at_k_keeps_its_precision_for_many_samples(n: int, c: int, k: int) -> None:
    expected = -math.expm1(sum(math.log1p(-k / i) for i in range(n - c + 1, n + 1) if i > k))
    expected = expected if n - c >= k else 1.0
    assert pass_at_k(n, c, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (0, 0, 1), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be_estimated(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n = {n}, c = {c}, k = {k}"):
        pass_at_k(n, c, k)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.random(50).tolist(), samples=400, seed=trial)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_repeats_and_widens_with_the_level() -> None:
    values = np.random.default_rng(1).random(40).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low_90, high_90 = bootstrap_interval(values, level=0.9)
    low_99, high_99 = bootstrap_interval(values, level=0.99)
    assert low_99 < low_90 < np.mean(values) < high_90 < high_99
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([math.nan], 0.95), ([1.0], 1.0)])
def test_an_interval_needs_finite_values_and_a_level(values: list[float], level: float) -> None:
    with pytest.raises(ValueError, match="needs finite values"):
        bootstrap_interval(values, level=level)


@given(st.integers(0, 4), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_majority_is_the_mean_over_every_subset_with_ties_shared(
    right: int, wrong: list[int], blank: int
) -> None:
    samples: list[int | None] = [0] * right + [None] * blank
    samples += [name for name, size in enumerate(wrong, 1) for _ in range(size)]
    curve = majority_curve(right, wrong, blank)
    assert len(curve) == len(samples)
    for k in range(1, min(len(samples), 8) + 1):
        wins = []
        for subset in itertools.combinations(samples, k):
            votes = Counter(name for name in subset if name is not None)
            top = [name for name, count in votes.items() if count == max(votes.values())]
            wins.append(1 / len(top) if 0 in top else 0.0)
        assert curve[k - 1] == pytest.approx(np.mean(wins), abs=1e-12)


@pytest.mark.parametrize(
    ("right", "wrong", "blank", "last"),
    [
        (3, [2, 2], 0, 1.0),
        (2, [2], 0, 0.5),  # a tie is a coin, not a win
        (2, [2, 2], 0, 1 / 3),
        (2, [3], 0, 0.0),
        (1, [], 9, 1.0),  # blanks do not vote
        (0, [1], 3, 0.0),
        (0, [], 3, 0.0),  # nobody votes: wrong
    ],
)
def test_the_vote_of_all_samples_by_hand(
    right: int, wrong: list[int], blank: int, last: float
) -> None:
    curve = majority_curve(right, wrong, blank)
    assert curve[-1] == pytest.approx(last)
    assert curve[0] == pytest.approx(right / len(curve)), "one sample: pass@1"


def test_a_majority_is_never_above_one() -> None:
    assert majority_curve(200, [100, 100]).max() <= 1.0


def test_a_majority_of_many_samples_is_close_to_what_drawing_them_gives() -> None:
    right, wrong, blank, k = 40, [30, 20, *[1] * 30], 8, 16
    names = [0] * right + [-1] * blank + [i for i, c in enumerate(wrong, 1) for _ in range(c)]
    rng, wins = random.Random(0), 0.0
    for _ in range(20_000):
        votes = Counter(name for name in rng.sample(names, k) if name >= 0)
        top = [name for name, count in votes.items() if count == max(votes.values())]
        wins += (0 in top) / len(top)
    assert majority_curve(right, wrong, blank)[k - 1] == pytest.approx(wins / 20_000, abs=0.012)


def test_a_vote_over_too_many_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="1001 right"):
        majority_curve(1001, [])
    with pytest.raises(ValueError, match="negative"):
        majority_curve(-1, [2])


def test_the_curve_is_pass_at_each_k() -> None:
    assert pass_curve(5, 2).tolist() == [pass_at_k(5, 2, k) for k in range(1, 6)]
    assert pass_curve(0, 0).tolist() == []


def test_columns_with_missing_values_are_means_over_the_problems_that_have_them() -> None:
    values = np.array([[1.0, np.nan], [0.0, 1.0], [0.5, np.nan]])
    means = estimates.resampled_means(values, samples=500)
    assert means.shape == (500, 2)
    drawn = estimates.resampled_counts(3, 500)
    assert means[0, 0] == pytest.approx((drawn[0] * [1.0, 0.0, 0.5]).sum() / 3)
    assert set(np.unique(means[:, 1][~np.isnan(means[:, 1])])) == {1.0}
    assert np.isnan(means[drawn[:, 1] == 0, 1]).all()
    low, high = estimates.percentiles(means)
    assert (low[1], high[1]) == (1.0, 1.0)


def test_the_difference_interval_covers_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        a, b = int(rng.binomial(16, 0.2)), int(rng.binomial(16, 0.6))
        low, high = estimates.difference_interval((a, 16), (b, 16))
        hits += low <= 0.4 <= high
    assert 0.92 <= hits / 400 <= 0.985
    assert estimates.difference_interval((0, 0), (3, 3)) == pytest.approx((-0.21, 1.0), abs=0.4)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
)
def test_auc_is_the_share_of_pairs_in_order(right: list[int], wrong: list[int]) -> None:
    def counts(grades: list[int]) -> np.ndarray:
        return np.bincount(grades, minlength=6)[1:]

    won = np.mean([(r > w) + 0.5 * (r == w) for r in right for w in wrong])
    assert float(estimates.auc(counts(right), counts(wrong))) == pytest.approx(won)


def test_auc_and_correlations_say_nan_where_there_is_nothing_to_say() -> None:
    assert math.isnan(float(estimates.auc(np.zeros(5), np.ones(5))))
    assert math.isnan(estimates.spearman(np.ones(4), np.arange(4.0)))
    x = np.array([1.0, 2.0, 2.0, 5.0])
    assert estimates.spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert estimates.pearson(x, -3 * x) == pytest.approx(-1.0)


def krippendorff_by_pairs(grades: list[list[float]]) -> float:
    """The definition, pair by pair: 1 - observed / expected disagreement, interval metric."""
    units = [[g for g in unit if not math.isnan(g)] for unit in grades]
    units = [unit for unit in units if len(unit) > 1]
    n = sum(map(len, units))
    observed = sum(
        (a - b) ** 2 / (len(u) - 1) for u in units for a, b in itertools.permutations(u, 2)
    )
    every = [g for unit in units for g in unit]
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(every, 2)) / (n - 1)
    return 1 - observed / expected


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, math.nan]), min_size=3, max_size=3),
        min_size=2,
        max_size=8,
    )
)
@settings(deadline=None)
def test_alpha_is_krippendorffs_with_missing_grades_left_out(grades: list[list[float]]) -> None:
    found = estimates.krippendorff_alpha(np.array(grades))
    known = [g for unit in grades for g in unit if sum(not math.isnan(x) for x in unit) > 1]
    if len({g for g in known if not math.isnan(g)}) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(krippendorff_by_pairs(grades))


def test_alpha_by_a_published_case() -> None:
    # Krippendorff 2011, "Computing Krippendorff's alpha-reliability", C: interval alpha = .849
    n = math.nan
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    assert estimates.krippendorff_alpha(np.array(observers).T) == pytest.approx(0.849, abs=5e-4)


def test_pair_agreement_counts_pairs_of_the_same_item() -> None:
    grades = np.array([[5, 5, 4], [1, np.nan, 1], [np.nan, 3, np.nan]])
    assert estimates.pair_agreement(grades) == pytest.approx((1 / 3 + 1) / 2)
    assert math.isnan(estimates.pair_agreement(np.array([[1.0]])))
