"""A trainer process that does what the leader's does: `python -m exprl.run.follower CONFIG`.

The leader starts it, with the run's resolved config, RUN/config.toml, and with RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT in its environment. It ends when the leader says so, or is gone.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from exprl import config
from exprl.learn.control import join
from exprl.learn.model import best_device
from exprl.learn.ranks import follow
from exprl.run.policy import policy_arguments, set_threads


def main(path: Path) -> None:
    """Follow until the leader says stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the leader's, which ends its followers
    cfg = config.load(path)
    set_threads(cfg.train.torch_threads)
    with join(best_device()) as post:
        follow(post, policy_arguments(cfg))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
