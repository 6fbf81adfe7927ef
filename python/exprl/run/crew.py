"""The processes that a run starts beside its own: servers of policy and judge, trainer ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exprl import config
from exprl.cluster.placement import LEADER, Need, Role, describe_seats, list_needs
from exprl.cluster.processes import Cluster, Process, open_cluster
from exprl.errors import ProcessError, RankError
from exprl.learn.control import Team, open_team
from exprl.learn.model import best_device
from exprl.rollout.engine import Engine
from exprl.rollout.fleet import Fleet
from exprl.rollout.server import Endpoints, find_endpoints
from exprl.run import checkpoint
from exprl.run.servers import Note, Servers, judge_of, judge_words, make_token, policy_words

LOGS = "logs"


def needs_of(cfg: config.Config, *, has_engine: bool = False) -> tuple[Need, ...]:
    """The processes of a run that compute on GPUs, its own first.

    Args:
        has_engine: the caller gives the run an engine that is up.
    """
    samples = cfg.needs_engine and not has_engine
    return list_needs(
        cfg.ranks,
        cfg.engine if samples else None,
        cfg.judge.serve if cfg.asks_judge else None,
    )


class Crew:
    """They end with the run; a run in one process, with a judge elsewhere, has none."""

    def __init__(self, cfg: config.Config, needs: tuple[Need, ...], note: Note) -> None:
        """Set their GPUs apart; nothing starts yet.

        Raises:
            ConfigError: there are too few GPUs, or the Ray cluster cannot be used.
        """
        self._cfg, self._note = cfg, note
        self._run_dir = Path(cfg.run_dir)
        self._token = make_token()
        self._policy: Servers | None = None
        self._judge: Servers | None = None
        self._cluster: Cluster | None = None
        if len(needs) > 1:
            self._cluster = open_cluster(cfg.cluster, needs, self._run_dir / LOGS)
            if any(seat.gpus for seat in self._cluster.seats.values()):
                note("; ".join(describe_seats(self._cluster.seats)))

    def start_servers(self) -> None:
        """Start those of policy and judge, and do not wait for them."""
        self._judge = self._start("judge", judge_words(self._run_dir))
        self._policy = self._start("policy", policy_words(self._run_dir, self._weights))

    @contextmanager
    def judge(self) -> Iterator[config.Judge]:
        """[judge] with the URLs of the run's own servers, once they are up.

        Raises:
            ProcessError: one did not come up.
        """
        if self._judge is None:
            yield self._cfg.judge
            return
        with judge_of(self._cfg.judge, self._judge.wait(), self._token) as section:
            self._judge.watch()
            yield section

    def endpoints(self) -> Endpoints:
        """The servers of the policy: the run's own, once they are up, or those of engine.urls.

        Raises:
            ProcessError: one did not come up.
            ConfigError: the token of engine.urls is not in the environment.
        """
        if self._policy is None:
            return find_endpoints(self._cfg.engine)
        return Endpoints(self._policy.wait(), self._token)

    def look_after(self, engine: Engine | None) -> None:
        """Start servers of the policy again that are lost from now on."""
        if self._policy and isinstance(engine, Fleet):
            self._policy.watch(engine)

    @contextmanager
    def team(self) -> Iterator[Team | None]:
        """The trainer's other ranks; None where there are none.

        Raises:
            ProcessError: one did not come up. (One that is lost later is a RankError.)
        """
        count, cluster = self._cfg.ranks.count, self._cluster
        if count == 1 or cluster is None:
            yield None
            return
        self._note(f"starting {count - 1} more trainer ranks; logs in {self._run_dir / LOGS}")

        def start(rank: int, env: Mapping[str, str]) -> Process:
            config_file = str(self._run_dir.absolute() / "config.toml")
            return cluster.start(f"rank-{rank}", ["-m", "exprl.run.follower", config_file], env)

        host = cluster.seats[LEADER].host
        with ExitStack() as stack:
            try:
                team = stack.enter_context(open_team(count, host, start, best_device()))
            except RankError as error:
                raise ProcessError(str(error)) from error
            yield team

    def close(self) -> None:
        """End all of them."""
        for servers in (self._judge, self._policy):
            if servers:
                servers.close()
        if self._cluster:
            self._cluster.close()

    def _start(self, role: Role, words: Callable[[], list[str]]) -> Servers | None:
        """The servers of a role; None where the run starts none."""
        cluster = self._cluster
        if cluster is None or f"{role}-0" not in cluster.seats:
            return None
        servers = Servers(cluster, role, words, self._token, self._note)
        self._note(servers.announce())
        return servers

    def _weights(self) -> str:
        """What a server of the policy starts with: a run deletes old checkpoints."""
        return str(checkpoint.latest(self._run_dir) or self._cfg.model.path)
