"""Files that a kill or a full disk must not spoil."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exprl import files
from exprl.errors import DataError

KILLED = """
import os, signal, sys
from pathlib import Path
from exprl import files
with files.write_atomically(Path(sys.argv[1])) as partial:
    partial.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""
LIMITED = """
import resource, sys
from pathlib import Path
from exprl import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))
try:
    files.write_text(Path(sys.argv[1]), "new" * (1 << 12))
except OSError as error:
    print(error.strerror)
"""


def run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )


def test_a_kill_before_the_file_is_whole_leaves_the_old_one_and_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    files.write_text(path, "old")
    assert run(KILLED, path).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    files.write_text(path, "old")
    assert "too large" in run(LIMITED, path).stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_with_all_that_it_held(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00001"
    for name in ("old", "new"):
        with files.write_atomically(folder) as partial:
            (partial / "trainer").mkdir(parents=True)
            (partial / "trainer" / name).touch()
            assert [path.name for path in folder.parent.glob("step-*")] in ([], [folder.name])
    assert [path.name for path in folder.rglob("*")] == ["trainer", "new"]


def test_an_error_while_a_folder_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "step-00001"
    folder.mkdir()
    with pytest.raises(RuntimeError), files.write_atomically(folder) as partial:
        partial.mkdir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [folder]


def test_a_number_that_json_does_not_have_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "summary.json"
    for write in (files.write_json, files.append_jsonl):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, {"loss": float("nan")})
    assert not path.exists()


@pytest.mark.parametrize("cut", [b'{"step": 2, "lo', b'{"step": 2}', b"{", b'{"text": "\xc3'])
def test_a_last_line_cut_short_is_left_out_and_replaced_by_the_next(
    cut: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "eval.jsonl"
    files.append_jsonl(path, {"step": 0})
    files.append_jsonl(path, {"step": 1})
    with path.open("ab") as file:
        file.write(cut)
    assert files.read_jsonl(path) == [{"step": 0}, {"step": 1}]
    files.append_jsonl(path, {"step": 3})
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 3}\n'


def test_a_first_line_cut_short_is_replaced_too(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"st')
    assert files.read_jsonl(path) == []
    files.append_jsonl(path, {"step": 0})
    assert files.read_jsonl(path) == [{"step": 0}]


@pytest.mark.parametrize(
    "line", [b"broken", b"", b"[1]", b'{"text": "\xff"}', b"{" * 100_000, b'{"a": ' * 100_000]
)
def test_a_broken_line_inside_is_an_error_with_its_number(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not a JSON object: "):
        files.read_jsonl(path)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"text": "a\nb \u2028 \ud800 é", "value": 0.1}, {}]
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert files.read_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "work").write_text("of years")
    with pytest.raises(IsADirectoryError, match="name a file"):
        files.write_text(folder, "a report")
    assert (folder / "work").read_text() == "of years"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
