"""Folders of data files: all rows of a split are read, or none."""

import datasets
import pytest

from exprl import config
from exprl.data.problems import load_problems
from exprl.errors import DataError

JSON = '{"problem": "p", "reference": "r", "answer": "007"}\n'
CSV = "problem,reference,answer\np,r,007\n"
CARD = """---
configs:
- config_name: easy
  data_files:
  - split: train
    path: a.jsonl
- config_name: hard
  data_files:
  - split: train
    path: b.jsonl
---
"""


@pytest.fixture
def load(tmp_path):
    """Write files into a folder, and read it."""

    def run(files, **keys):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return load_problems(config.Data(path=str(tmp_path), **keys))

    return run


@pytest.mark.parametrize(
    ("files", "split", "rows"),
    [
        ({"a.jsonl": JSON, "b.jsonl": JSON + JSON}, "train", 3),
        ({"train.csv": CSV, "test.csv": CSV + "q,r,8\n"}, "test", 2),
        ({"train/a.csv": CSV, "train/b.csv": CSV, "test/c.csv": CSV}, "train", 2),
        ({"train-00000-of-00002.jsonl": JSON, "train-00001-of-00002.jsonl": JSON}, "train", 2),
        ({"a.csv": CSV, "README.md": "Notes.", "LICENSE": "MIT", "plot.py": ""}, "train", 1),
        ({"a.csv": CSV, "dataset_infos.json": "{}", ".hidden.jsonl": JSON}, "train", 1),
    ],
)
def test_all_rows_of_a_split_are_read_with_answers_as_written(load, files, split, rows):
    problems = load(files, split=split)
    assert len(problems) == rows
    assert problems[0].answer == "007"


@pytest.mark.parametrize(
    "files",
    [
        {"rows.jsonl": JSON, "rows.csv": CSV},
        {"train.jsonl": JSON, "test.csv": CSV},
        {"a.jsonl": JSON, "b.json": f"[{JSON}]"},
        {"a.csv": CSV, "deep/b.jsonl": JSON},
        {"a.jsonl": JSON, "b.tsv": "problem\n"},
        {"a.jsonl": JSON, "a.jsonl.gz": ""},
    ],
)
def test_files_of_several_kinds_are_refused_by_name(load, files):
    first, second = files
    with pytest.raises(DataError, match="several kinds") as error:
        load(files)
    assert first in str(error.value) and second in str(error.value)
    assert "name one file in data.path" in str(error.value)


def test_a_file_that_belongs_to_no_split_is_refused_and_not_left_out(load):
    with pytest.raises(DataError, match=r"more.jsonl belongs to no split.* named after train"):
        load({"train.jsonl": JSON, "more.jsonl": JSON})


def test_a_split_that_is_not_there_is_refused_with_those_that_are(load):
    with pytest.raises(DataError, match="no split 'dev'; its splits are train, test"):
        load({"train.csv": CSV, "test.csv": CSV}, split="dev")


def test_a_dataset_card_says_which_files_are_read(load):
    files = {"README.md": CARD, "a.jsonl": JSON, "b.jsonl": JSON + JSON}
    assert len(load(files, subset="hard")) == 2
    with pytest.raises(DataError, match=r"Config name is missing.*'easy', 'hard'"):
        load(files)


def test_a_folder_without_data_is_refused(load):
    with pytest.raises(DataError, match="contain any data files"):
        load({})


@pytest.mark.parametrize("several", [True, False])
def test_what_datasets_saved_is_read(tmp_path, several):
    saved = datasets.Dataset.from_list(
        [{"problem": "p", "reference": "r", "answer": 7, "more": {"answer": "8"}}]
    )
    if several:
        saved = datasets.DatasetDict({"train": saved})
    saved.save_to_disk(tmp_path / "saved")
    columns = config.Columns(answer="more.answer")
    [only] = load_problems(config.Data(path=str(tmp_path / "saved"), columns=columns))
    assert (only.question, only.answer) == ("p", "8")


def test_images_that_lie_beside_the_texts_are_not_decoded(tmp_path):
    rows = [{"problem": "p", "reference": "r", "answer": "7", "image": {"bytes": b"no image"}}]
    saved = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    [only] = load_problems(config.Data(path=str(tmp_path / "saved")))
    assert only.answer == "7"
