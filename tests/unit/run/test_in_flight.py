"""Rollouts of steps in flight, in a checkpoint's folder."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exprl.errors import DataError
from exprl.run.in_flight import FILE, read_in_flight, write_in_flight
from exprl.types import Rollout

lists = st.lists(st.integers(0, 2**31 - 1), max_size=5)


@st.composite
def rollouts(draw):
    n = draw(st.integers(0, 4))
    numbers = st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n)
    logps = st.lists(st.floats(width=32, allow_nan=False), min_size=n, max_size=n)
    return Rollout(
        draw(st.text(st.characters(codec="utf-8"), max_size=5)),
        draw(st.integers(0, 100)),
        np.array(draw(lists), np.int32),
        np.array(draw(numbers), np.int32),
        np.array(draw(logps), np.float32),
        draw(st.sampled_from(["stop", "length", "failed"])),
        np.array(draw(numbers), np.int32),
        draw(st.sampled_from(["", "<think>\n"])),
    )


@given(
    written=st.dictionaries(
        st.integers(0, 9), st.lists(rollouts(), min_size=1, max_size=4), max_size=3
    )
)
def test_what_is_written_is_read_again_to_the_bit(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("trainer")
    write_in_flight(folder, written)
    assert (folder / FILE).exists() == bool(written)
    found = read_in_flight(folder)
    assert found.keys() == written.keys()
    for step, expected in written.items():
        for one, other in zip(found[step], expected, strict=True):
            for field in fields(Rollout):
                a, b = getattr(one, field.name), getattr(other, field.name)
                np.testing.assert_array_equal(a, b)
                if isinstance(b, np.ndarray):
                    assert a.dtype == b.dtype


def test_a_file_that_is_none_is_told_of_with_what_to_do(tmp_path):
    (tmp_path / FILE).write_text("no parquet")
    with pytest.raises(DataError, match=r"ahead.parquet does not hold .* sampled again"):
        read_in_flight(tmp_path)
