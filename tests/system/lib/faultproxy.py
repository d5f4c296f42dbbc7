"""A small HTTP relay in front of an object store that fails on command.

Modes: ok, refuse (connections are closed at once), 500, 503 (SlowDown), reset
(breaks off in the middle of a body), slow (half a second a request).
"""

import random
import socket
import threading
import time


class FaultProxy:
    def __init__(self, target_port):
        self.target = ("127.0.0.1", target_port)
        self.mode = "ok"
        self.failed = 0
        self.random = random.Random(3)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self.listener.accept()
            if self.mode == "refuse":
                self.failed += 1
                client.close()
                continue
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client):
        try:
            while self._one(client):
                pass
        except OSError:
            pass
        finally:
            client.close()

    def _read_head(self, source, rest=b""):
        data = rest
        while b"\r\n\r\n" not in data:
            more = source.recv(65536)
            if not more:
                return None, b""
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _length(self, head):
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                return int(value)
        return 0

    def _one(self, client):
        head, rest = self._read_head(client)
        if head is None:
            return False
        length = self._length(head)
        mode = self.mode
        if mode == "reset" and length > 2000:
            # The store sees a part of the body, the client a broken connection.
            self.failed += 1
            with socket.create_connection(self.target) as server:
                server.sendall(head + b"\r\n\r\n" + rest[: length // 2])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            return False
        body = rest
        if b"100-continue" in head.lower():
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < length:
            more = client.recv(65536)
            if not more:
                return False
            body += more
        if mode in ("500", "503"):
            self.failed += 1
            code = b"InternalError" if mode == "500" else b"SlowDown"
            text = b"<Error><Code>" + code + b"</Code><Message>later</Message></Error>"
            client.sendall(b"HTTP/1.1 " + mode.encode() + b" No\r\nContent-Type: application/xml\r\nContent-Length: " + str(len(text)).encode() + b"\r\n\r\n" + text)
            return True
        if mode == "slow":
            time.sleep(0.5)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
        with socket.create_connection(self.target) as server:
            server.sendall(b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n" + body)
            while data := server.recv(65536):
                client.sendall(data)
        return False
