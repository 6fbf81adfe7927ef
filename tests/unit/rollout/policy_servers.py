"""Small HTTP servers that speak as vLLM's policy servers do, and fail as they are told.

What they sample is a pure function of prompt, seed and the version of their weights. As vLLM does,
they hold requests while they are paused, and die of a request between start and finish.
"""

import json
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch
from safetensors.torch import load_file

from exprl.serve import gloo

TOKENS = 4


class PolicyServer(ThreadingHTTPServer):
    """faults: what becomes of the next requests to a path: a status, "drop" or "hang".

    seen: method, path, headers and body of every request.
    weights: the tensors of the last whole update.   died: why its engine would have ended.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, token=None, transfer="files", **facts):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.token, self.transfer = token, transfer
        self.facts = {
            "version": "0.32.0",
            "model": "examples/division/base",
            "max_model_len": 128,
            "logprobs_mode": "processed_logprobs",
            "dtype": "torch.float32",
            "world_size": 1,
        } | facts
        self.seen, self.faults, self.died, self.pauses = [], {}, None, []
        self.version, self.weights, self.coming = "default", {}, {}
        self.paused, self.started, self.group = False, False, None
        self.changed = threading.Condition()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def fail(self, path, *faults):
        """Have the next requests to the path fail so; None = the request is answered."""
        self.faults[path] = deque(faults)

    def paths(self):
        """The control calls so far, in order."""
        return [path for _, path, _, _ in self.seen if path in CONTROL]

    def handle_error(self, request, client_address):
        """A client that goes is no news."""

    def kill(self):
        """End: what waits is dropped, and nobody listens."""
        self.died = self.died or "killed"
        self.shutdown()
        self.server_close()
        self.released.set()
        with self.changed:
            self.changed.notify_all()


CONTROL = (
    "/pause",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/resume",
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Silent."""

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, content):
        body = json.loads(content) if content else None
        path, _, query = self.path.partition("?")
        me = self.server
        me.pauses += [query] if path == "/pause" else []
        headers = {name.lower(): value for name, value in self.headers.items()}
        me.seen.append((self.command, path, headers, body))
        if me.token and self.headers.get("authorization") != f"Bearer {me.token}":
            return self.reply(401, {"error": {"message": "another token, please"}})
        fault = me.faults[path].popleft() if me.faults.get(path) else None
        if fault == "hang":
            me.released.wait()
        if fault in ("hang", "drop") or me.died == "killed":
            self.close_connection = True
            return self.connection.close()
        if fault or me.died:
            return self.reply(fault or 500, {"error": {"message": f"so it was told: {fault}"}})
        try:
            return self.reply(200, self.result(path, body))
        except Exception as error:
            return self.reply(500, {"error": {"message": str(error)}})

    def reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = status == 500  # as uvicorn does, without a word before

    def result(self, path, body):
        me, facts = self.server, self.server.facts
        names = {name: facts[name] for name in ("logprobs_mode", "dtype")}
        transfer = {"backend": me.transfer} if me.transfer else None
        card = {"root": facts["model"], "max_model_len": facts["max_model_len"]}
        said = {
            "/health": {},
            "/version": {"version": facts["version"]},
            "/v1/models": {"data": [card]},
            "/weight_info": {"weight_version": me.version},
            "/get_world_size": {"world_size": facts["world_size"]},
            "/is_paused": {"is_paused": me.paused},
            "/server_info": {
                "vllm_config": {"weight_transfer_config": transfer, "model_config": names}
            },
        }
        if path in said:
            return said[path]
        return generate(me, body) if path == "/inference/v1/generate" else control(me, path, body)


def generate(me, body):
    """As vLLM answers; 4 tokens, with one log-prob each."""
    with me.changed:
        me.changed.wait_for(lambda: not me.paused or me.died)
    if me.started:
        me.died = "a request between start and finish"
    if me.died:
        raise RuntimeError(me.died)
    params, version = body["sampling_params"], me.version
    seed = abs(hash((params.get("seed"), tuple(body["token_ids"]), version)))
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 20, TOKENS).tolist()
    content = [{"token_id": i, "logprob": -float(rng.random())} for i in ids]
    prompt = [None, *({str(i): {"logprob": -1.0}} for i in body["token_ids"][1:])]
    return {
        "prompt_logprobs": prompt if "prompt_logprobs" in params else None,
        "choices": [
            {
                "finish_reason": "stop",
                "token_ids": ids,
                "logprobs": {"content": content},
                "weight_versions": [{"version": version, "start": 0, "end": TOKENS}],
            }
        ],
    }


def control(me, path, body):
    """The calls of a weight update, refused in the cases in which vLLM refuses them."""
    match path:
        case "/pause":
            me.paused = True
        case "/resume":
            with me.changed:
                me.paused = False
                me.changed.notify_all()
        case "/init_weight_transfer_engine":
            info = body["init_info"]
            wait_s = info["timeout_s"]
            store = gloo.find_store(info["master_address"], info["master_port"], wait_s)
            rank, size = info["rank_offset"], info["world_size"]
            me.group = gloo.join_gloo(store, rank=rank, world_size=size, timeout_s=wait_s)
        case "/shutdown_weight_transfer_engine":
            if me.started:
                raise RuntimeError("no shutdown during a weight update")
            me.group = None
        case "/start_weight_update":
            if me.started:
                raise RuntimeError("a weight update is already active")
            me.started = True
        case "/update_weights":
            try:
                receive(me, body["update_info"])
            except BaseException:
                me.started = False
                raise
        case "/finish_weight_update":
            if not me.started:
                raise RuntimeError("finish without start")
            me.started, me.weights, me.coming = False, me.coming, {}
            me.version = body.get("weight_version", me.version)
        case _:
            raise RuntimeError(f"no such path: {path}")
    return {}


def receive(me, info):
    """A tensor that comes twice in one update is what a broken update left behind."""
    if not me.started:
        raise RuntimeError("update without start")
    found = load_file(info["path"]) if me.transfer == "files" else broadcast(me, info)
    again = me.coming.keys() & found.keys()
    me.coming |= found
    if again:
        raise RuntimeError(f"came twice: {again}")


def broadcast(me, info):
    found = {}
    for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
        found[name] = torch.empty(shape, dtype=getattr(torch, dtype))
        gloo.broadcast(me.group, found[name])
    return found


@contextmanager
def running(*servers):
    """End the servers, whatever happens."""
    try:
        yield servers
    finally:
        for server in servers:
            if server.died != "killed":
                server.kill()
