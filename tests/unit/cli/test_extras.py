"""A package that is not installed: one line that names the extra which brings it."""

import subprocess
import sys

import pytest

from exprl.cli.extras import find_remedy

# Runs the command line where some packages cannot be imported, as if they were not installed.
WITHOUT = """
import importlib.util, sys

names, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in names else original(name, *rest)
sys.meta_path.insert(0, Without())
from exprl.cli import main
main()
"""
TRAINER = "torch,transformers,tokenizers,pyarrow,datasets,httpx,matplotlib,safetensors,vllm"
DIVISION = "configs/division_process.toml"


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "`cpu` (with vLLM"),
        ("pyarrow.parquet", "or `train`"),
        ("matplotlib", "or `train`"),
        ("math_verify", "or `train`"),
        ("peft", "the extra `lora`"),
        ("tensorboard", "the extra `tensorboard`"),
        ("liger_kernel", "the extra `fused`"),
    ],
)
def test_the_extra_of_a_package_is_named(module, extra):
    assert extra in find_remedy(module)


@pytest.mark.parametrize("module", ["numpy", "exprl.nothing", "no_such_package", "", None])
def test_a_module_of_no_extra_has_no_remedy_and_stays_an_error(module):
    assert find_remedy(module) is None


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (TRAINER, ["train", DIVISION, "run_dir=FOLDER/r"]),
        (TRAINER, ["train", DIVISION, "run_dir=FOLDER/r", "--dry-run"]),
        (TRAINER, ["eval", "examples/division/base", "--config", DIVISION]),
        (TRAINER, ["demo", "--run-dir", "FOLDER/d"]),
        (TRAINER, ["calibrate", "FOLDER/s.jsonl", "--rules", "numbers"]),
        ("pyarrow", ["init", "FOLDER/s.parquet", "--out", "FOLDER/c.toml"]),
        ("safetensors", ["train", DIVISION, "run_dir=FOLDER/r"]),
    ],
)
def test_a_command_without_its_packages_ends_with_one_line(missing, words, repo, tmp_path):
    (tmp_path / "s.jsonl").write_text('{"problem": "?", "trace": "4", "correct": true}\n')
    (tmp_path / "s.parquet").touch()
    words = [word.replace("FOLDER", str(tmp_path)) for word in words]
    line = [sys.executable, "-c", WITHOUT, missing, *words]
    done = subprocess.run(line, cwd=repo, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    [said] = done.stderr.splitlines()
    named, _, rest = said.removeprefix("exprl: ").partition(" ")
    assert named in missing.split(",")
    assert rest.startswith("is not installed, and this command needs it; install exprl with")
