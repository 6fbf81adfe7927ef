"""Pages of a run that goes on: new steps, steps that are done again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient
from view_runs import open_pages, read, scored, write_step

from exprl.view.catalog import Catalog


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for the thread that looks for new steps."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def stamp(pages: TestClient) -> str:
    return pages.get("/live").json()["stamp"]


def test_a_new_step_is_shown_as_soon_as_it_is_written(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [scored("p", 0, (2,))])
    with open_pages(tmp_path) as pages:
        assert "Step 1" in read(pages, "").text
        write_step(tmp_path, 2, [scored("p", 0, (5,)), scored("new", 0, (5,))])
        assert "Step 2" in read(pages, "").text
        wait_until(lambda: len(read(pages, "problems").links("problem?")) == 2)
        assert len(read(pages, "rollouts?pick=best").links("rollout?")) == 3


def is_new(now: str, *earlier: str) -> bool:
    """Whether all steps are read, and the stamp is none of the earlier ones."""
    return now.endswith(".10") and now not in earlier


def test_the_stamp_tells_of_rollouts_and_of_metrics(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [scored("p", 0, (2,))])
    with open_pages(tmp_path) as pages:
        wait_until(lambda: stamp(pages).endswith(".10"))  # ten tenths of the steps are read
        first, metrics = stamp(pages), tmp_path / "metrics.jsonl"
        assert first == stamp(pages)
        metrics.write_text(metrics.read_text() * 2)
        second = stamp(pages)
        rollouts = tmp_path / "rollouts"
        shutil.copy(rollouts / "step-00001.parquet", rollouts / "step-00002.parquet")
        assert second != first
        wait_until(lambda: is_new(stamp(pages), first, second))


def test_a_page_with_a_step_in_its_address_stays_there(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [scored("p", 0, (2,))])
    write_step(tmp_path, 2, [scored("p", 0, (5,))])
    with open_pages(tmp_path) as pages:

        def follows(address: str) -> bool:
            [main] = [attrs for tag, attrs in read(pages, address).elements if tag == "main"]
            return main["data-live"] == "follow"

        assert follows("") and follows("rollouts?pick=best") and follows("problems")
        assert not follows("?step=1") and not follows("rollout?step=1&row=0")


def test_a_step_that_a_resumed_run_does_again_is_read_again(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [scored("p", 0, (2,), ["the first try"])])
    with open_pages(tmp_path) as pages:
        assert "2 1 step" not in read(pages, "rollout?step=1&row=0").text
        assert len(read(pages, "?step=1").links("rollout?")) == 1
        write_step(tmp_path, 1, [scored("p", 0, (5,), ["the second try"]), scored("p", 1, (1,))])
        os.utime(tmp_path / "rollouts" / "step-00001.parquet", ns=(1, 1))  # whatever the clock says
        assert len(read(pages, "?step=1").links("rollout?")) == 2
        assert "the second try" in read(pages, "rollout?step=1&row=0").text


def test_a_step_that_is_taken_away_is_no_longer_found(tmp_path: Path) -> None:
    for step in (1, 2):
        write_step(tmp_path, step, [scored("p", 0, (5,))])
    with open_pages(tmp_path) as pages:
        wait_until(lambda: len(read(pages, "rollouts").links("rollout?")) == 2)
        (tmp_path / "rollouts" / "step-00002.parquet").unlink()
        wait_until(lambda: len(read(pages, "rollouts").links("rollout?")) == 1)
        assert pages.get("/?step=2").status_code == 404


def test_steps_are_not_read_while_a_page_is_made(tmp_path: Path) -> None:
    for step in (1, 2):
        write_step(tmp_path, step, [scored("p", 0, (5,))])
    catalog = Catalog(tmp_path)
    with catalog.page_first():
        catalog.start()
        time.sleep(0.3)  # long enough for the thread to read the other step, if it did
        assert [index.step for index in catalog.known()] == [2]
    wait_until(lambda: len(catalog.known()) == 2)
    catalog.stop()
