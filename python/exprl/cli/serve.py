"""`exprl serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from exprl.cli.options import ConfigFile, Overrides, one_of, read_overrides


def serve(
    config_file: ConfigFile,
    overrides: Overrides = None,
    role: Annotated[
        str, typer.Option(metavar="policy|judge", help="which of the config's models to serve")
    ] = "policy",
    model: Annotated[
        str | None,
        typer.Option(
            help="folder or hub id of the weights to start with (default: for the policy"
            " init_from or model.path, for the judge judge.serve.model)"
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on; 0.0.0.0 for all of this machine's, which needs EXPRL_TOKEN"
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0 = a free one")
    ] = 0,
    with_parent: Annotated[
        bool,
        typer.Option(
            "--with-parent", help="end when stdin ends, or the process that started this one"
        ),
    ] = False,
) -> None:
    """Serve the policy, or the judge, of a config with vLLM, until Ctrl-C.

    A run starts the servers of its own machines by itself; this is for all others.

    Example: exprl serve configs/division_process.toml --port 8100

    Example: exprl serve run.toml --role judge --model Qwen/Qwen3-4B-Instruct-2507 --port 8001

    When the server answers, it prints one line of JSON with its `url`. All else goes to stderr.

    Every request must carry the token that EXPRL_TOKEN holds: `Authorization: Bearer TOKEN`.

    Without that variable nobody is asked, and the server listens on 127.0.0.1 only.
    """
    from exprl import config
    from exprl.run.recorded import resolve_init_from
    from exprl.serve.flags import ROLES, judge_server, policy_server
    from exprl.serve.start import become_server

    cfg = config.load(config_file, read_overrides(overrides))
    match one_of("--role", role, ROLES):
        case "policy":
            server = policy_server(
                cfg.model,
                cfg.rollout,
                cfg.engine,
                weights=model or resolve_init_from(cfg).model.path,
                threads=cfg.train.torch_threads,
            )
        case "judge":
            asked = cfg.judge.serve
            loaded = model or (asked.model if asked else None)
            if loaded is None:
                raise typer.BadParameter(
                    "name the judge's model, or set judge.serve.model", param_hint="--model"
                )
            server = judge_server(
                loaded,
                name=cfg.judge.model or loaded,
                gpus_each=asked.gpus_each if asked else 1,
                args=asked.args if asked else None,
            )
    become_server(server, host, port, with_parent=with_parent)
