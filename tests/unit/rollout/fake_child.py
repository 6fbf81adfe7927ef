"""The child's process as it is, around an engine that needs no model and no vLLM.

A request's tokens are its seed, over and over, one a step; its log-probs are what the last weights
add up to. An engine that stands in for vLLM here says on stdout what it does, as vLLM may.
"""

import sys
import time

from exprl.rollout import child_process
from exprl.rollout.vllm_core import Sample

STEP_S = 0.002


class FakeCore:
    """As VllmCore; log-probs of a prompt are the keys of what runs, as numbers."""

    def __init__(self, model, rollout, *, weights, stops, sleeps):
        if weights == "crash":
            raise ZeroDivisionError("the engine came down")
        if weights == "refuse":
            raise child_process.ExprlError("no such weights")
        self.running, self.version, self.total = {}, 0, 0.0

    @property
    def busy(self):
        return bool(self.running)

    def add(self, key, ids, max_tokens, seed, how):
        print(f"request {key}", flush=True)
        self.running[key] = (max_tokens, seed, [])

    def add_logp(self, key, ids):
        self.running[key] = (0, 0, [float(len(self.running))])

    def abort(self, keys):
        for key in keys:
            del self.running[key]

    def load_weights(self, weights, version):
        self.total = sum(float(value.double().sum()) for _, value in weights)
        self.version = version

    def set_version(self, version):
        self.version = version

    def step(self):
        print("a step", flush=True)
        time.sleep(STEP_S)
        for key, (length, seed, done) in list(self.running.items()):
            if length == 0:
                yield key, Sample([], done, "length", [])
            elif seed == 666:
                sys.exit("error: the engine met seed 666")
            else:
                done.append((self.version, self.total))
                if len(done) < length:
                    continue
                logp = [total for _, total in done]
                versions = [(version, 1) for version, _ in done]
                yield key, Sample([seed % 1000] * length, logp, "length", versions)
            del self.running[key]


if __name__ == "__main__":
    child_process.VllmCore = FakeCore
    child_process.main()
