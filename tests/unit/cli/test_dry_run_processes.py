"""What the dry run says of the processes of a run, and of settings that none of them reads."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from exprl import config
from exprl.cli.dry_run import warnings
from exprl.cli.dry_run.processes import describe_placement, describe_servers
from exprl.errors import ConfigError, EngineError


def build(tmp_path="d", **sections):
    return config.build(
        {
            "run_dir": f"{tmp_path}/run",
            "model": {"path": "m", "dtype": "float32"},
            "data": {"path": "d"},
            "judge": {"kind": "rules"},
            "rollout": {"max_prompt_tokens": 32, "max_response_tokens": 96},
            **sections,
        }
    )


@pytest.mark.parametrize(
    ("sections", "ignored"),
    [
        ({"engine": {"count": 2}}, "engine.count has no effect: engine.kind = 'process'"),
        ({"engine": {"kind": "child", "args": {"a": 1}}}, "engine.args.a has no effect"),
        ({"cluster": {"kind": "ray"}}, "cluster.kind has no effect: the run starts no process"),
        (
            {"engine": {"kind": "servers"}, "cluster": {"address": "10.0.0.1:6379"}},
            "cluster.address has no effect: cluster.kind = 'local'",
        ),
        (
            {"engine": {"kind": "servers", "count": 2, "urls": ["http://10.0.0.7:8000"]}},
            "engine.count has no effect: engine.urls names servers that run already",
        ),
        (
            {"engine": {"kind": "servers", "transfer_dir": "/w"}},
            "engine.transfer_dir has no effect: engine.transfer = 'auto' needs no folder",
        ),
        (
            {"engine": {"kind": "servers", "transfer": "nccl"}},
            "this machine has no GPU: a run that is started here stops",
        ),
        ({"engine": {"kind": "servers", "transfer": "files", "transfer_dir": "/w"}}, None),
        ({"engine": {"kind": "servers", "count": 2}}, None),
    ],
)
def test_settings_of_processes_that_change_nothing_are_named(sections, ignored, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = [t for t in warnings(build(**sections)) if t.startswith(("engine.", "cluster."))]
    assert [ignored in text for text in told] == ([True] if ignored else [])


def test_every_process_is_listed_with_its_place(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cfg = build(tmp_path, engine={"kind": "servers", "gpus_each": 2}, ranks={"count": 2})
    assert list(describe_placement(cfg)) == [
        "rank-0 (this process): GPU 0 of this machine",
        "rank-1: GPU 1 of this machine",
        "policy-0: GPU 2, 3 of this machine",
    ]
    assert not (tmp_path / "run").exists()
    short = build(tmp_path, engine={"kind": "servers", "gpus_each": 4})
    with pytest.raises(ConfigError, match="the run wants 5 GPUs, and there are 4"):
        list(describe_placement(short))
    assert list(describe_placement(build(tmp_path))) == []


ANSWERS = {
    "/health": None,
    "/version": {"version": "0.32.0"},
    "/v1/models": {"data": [{"root": "m", "max_model_len": 4096}]},
    "/weight_info": {"weight_version": "12"},
    "/get_world_size": {"world_size": 2},
    "/is_paused": {"is_paused": False},
    "/server_info": {
        "vllm_config": {
            "weight_transfer_config": {"backend": "gloo"},
            "model_config": {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32"},
        }
    },
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen.append((path, self.headers["Authorization"]))
        self.send_response(503 if path in self.server.broken else 200)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS[path]).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as opened:
        opened.seen, opened.broken = [], ()
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


def named(server, **engine):
    url = f"http://127.0.0.1:{server.server_port}"
    return build(engine={"kind": "servers", "urls": [url], "transfer": "gloo", **engine})


def test_a_server_that_runs_says_what_it_is_and_is_shown_the_token(server, monkeypatch):
    monkeypatch.setenv("TOKEN_HERE", "s3cret")
    (line,) = describe_servers(named(server, token_env="TOKEN_HERE"))
    assert "is well: vLLM 0.32.0, 2 workers, room for 4,096 tokens; weights '12' of m" in line
    assert {path for path, _ in server.seen} == ANSWERS.keys()
    assert {token for _, token in server.seen} == {"Bearer s3cret"}
    assert "s3cret" not in line


def test_a_server_whose_engine_is_gone_is_an_error(server):
    server.broken = ("/health",)
    with pytest.raises(EngineError, match="answers, but its engine does not work"):
        list(describe_servers(named(server)))


def test_servers_that_the_run_starts_itself_are_not_asked():
    assert list(describe_servers(build(engine={"kind": "servers"}))) == []
