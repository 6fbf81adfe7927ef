"""nginx on loopback that answers every chat completion alike, at once or after a delay.

The reply's `usage.prompt_tokens` is the length of the request's body, so that a benchmark can
check that all clients send prompts of the same size.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
REPLY = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"canned","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"Every step follows.\\\\nScore: 4"},'
    '"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":$content_length,'
    '"completion_tokens":9,"total_tokens":9,"prompt_tokens_details":null}}'
)
CONFIG = """
load_module {echo};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type application/json;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 16m;
  client_body_buffer_size 256k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /0/v1/chat/completions {{ return 200 '{reply}'; }}
    location ~ ^/(?<ms>[0-9][0-9][0-9])/v1/chat/completions$ {{
      echo_read_request_body;
      echo_sleep 0.$ms;
      echo -n '{reply}';
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx() -> Iterator[str]:
    """Start nginx; give its address. `/0/v1` answers at once, `/050/v1` after 50 ms."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None or not ECHO_MODULE.exists():
        raise SystemExit(
            "this benchmark needs nginx and its echo module; on Debian or Ubuntu:\n"
            "  apt-get install nginx-light libnginx-mod-http-echo"
        )
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(folder) / "nginx.conf"
        config.write_text(CONFIG.format(echo=ECHO_MODULE, folder=folder, port=port, reply=REPLY))
        log = (Path(folder) / "out").open("wb")
        with subprocess.Popen([binary, "-c", str(config)], stdout=log, stderr=log) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_for(f"{url}/0/v1/chat/completions", process, Path(folder) / "out")
                yield url
            finally:
                process.terminate()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, data=b"{}").close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"nginx did not start:\n{log.read_text()}")
