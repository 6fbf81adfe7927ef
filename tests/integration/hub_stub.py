"""A hub on loopback that speaks the part of its HTTP interface that an upload needs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "s3cret" * 5


@dataclass
class Hub:
    """What was written, and how the hub behaves."""

    url: str = ""
    private: bool | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: bool = False


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def take(self, route: Any) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append(f"{self.command} {self.path}")
            blob = self.path.startswith("/blob/")  # as on the hub, its address is permission enough
            if not blob and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid credentials"})
            elif hub.broken and "/commit/" in self.path:
                self.answer(422, {"error": "the disk of the hub is full"})
            else:
                self.answer(*route(hub, self.path, body))

        def do_GET(self) -> None:
            self.take(get)

        def do_PUT(self) -> None:
            self.take(put)

        def do_POST(self) -> None:
            self.take(post)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    if hub.private is None or not path.startswith("/api/models/"):
        return 404, {"error": "no such repository"}
    siblings = [{"rfilename": name} for name in hub.files]
    return 200, {"id": "me/m", "private": hub.private, "siblings": siblings, "sha": "0" * 40}


def put(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    hub.blobs[path.removeprefix("/blob/")] = body
    return 200, {}


def post(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    if path == "/api/repos/create":
        if hub.private is not None:
            return 409, {"error": "exists", "url": f"{hub.url}/me/m"}
        hub.private = json.loads(body).get("visibility") == "private"
        return 200, {"url": f"{hub.url}/me/m", "name": "me/m"}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if "/preupload/" in path:
        names = [file["path"] for file in json.loads(body)["files"]]
        mode = {True: "lfs", False: "regular"}
        large = (".safetensors", ".png")
        files = [{"path": n, "uploadMode": mode[n.endswith(large)]} for n in names]
        return 200, {"files": [{**one, "shouldIgnore": False} for one in files]}
    if path.endswith("/info/lfs/objects/batch"):
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.url}/blob/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}
    assert "/commit/" in path, path
    return 200, commit(hub, [json.loads(line) for line in body.splitlines()])


def commit(hub: Hub, lines: list[dict[str, Any]]) -> dict[str, Any]:
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "header":
                hub.commits.append(value["summary"])
            case "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                hub.files[value["path"]] = hub.blobs[value["oid"]]
            case "deletedFile":
                del hub.files[value["path"]]
    oid = f"{len(hub.commits):040x}"
    url = f"{hub.url}/me/m/commit/{oid}"
    return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}
