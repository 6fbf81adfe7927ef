"""A TCP proxy before a server: it keeps every byte that the server is sent, and can die."""

import contextlib
import select
import socket
import threading
import urllib.parse


class RecordingProxy:
    """url: of the proxy.   received: what each connection sent, whole."""

    def __init__(self, url):
        there = urllib.parse.urlsplit(url)
        self._target = (there.hostname, there.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = []
        self._sockets, self._dead = set(), False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        kept = bytearray()
        self.received.append(kept)
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            self._sockets |= {client, server}
            while not self._dead:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(65536)
                    if one is client:
                        kept += data
                        server.sendall(data)
                    else:
                        client.sendall(data)
                    if not data:
                        return

    def kill(self):
        """Reset every connection, and listen no more."""
        self._dead = True
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
