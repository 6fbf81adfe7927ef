"""Runs `exprl train ...` and dies by SIGKILL at a named place of a given step.

python killed_run.py PLACE STEP CONFIG [KEY=VALUE ...]      PLACE: sample, judge, train, save, never

The step is the last one that was begun. `sample` needs the engine in this process.
"""

import os
import signal
import sys

from exprl import cli
from exprl.data import mixture
from exprl.learn import policy
from exprl.reward import scorer
from exprl.rollout import vllm_engine

place, deadly_step = sys.argv[1], int(sys.argv[2])
steps = [0]


def die_at(here):
    if (here, steps[-1]) == (place, deadly_step):
        os.kill(os.getpid(), signal.SIGKILL)


def draw_problems(*args, original=mixture.draw_problems):
    *_, done = args
    steps.append(done + 1)
    return original(*args)


def sample(self, *args, original=vllm_engine.VllmEngine.sample):
    """Dies when some rollouts have come out and others have not."""
    for count, one in enumerate(original(self, *args), 1):
        if count == 5:
            die_at("sample")
        yield one


def finish(self, progress, original=scorer.Scorer.finish):
    """Dies when some grades have come and others have not."""

    def note(done, of):
        die_at("judge")
        progress(done, of)

    return original(self, note)


def step(*args, original=policy.Policy.step):
    """Dies when the step is sampled and not learned from."""
    die_at("train")
    return original(*args)


def save_file(*args, original=policy.save_file):
    """Dies when the model is on disk and the optimizer is not."""
    die_at("save")
    return original(*args)


mixture.draw_problems = draw_problems
vllm_engine.VllmEngine.sample = sample
scorer.Scorer.finish = finish
policy.Policy.step = step
policy.save_file = save_file
sys.argv = ["exprl", "train", *sys.argv[3:]]
cli.main()
