"""The socket side of one client: a port that is open for UDP and for TCP, and a connection of its own where it sends by TCP."""

import re
import selectors
import socket
import threading


def local_address(server):
    """The address of ours that the server sees."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(server)
        return probe.getsockname()[0]


class Wire:
    """Sends to the server and hands over what comes, with the way to answer it. In-dialog requests of the
    server come by whatever transport the Contact names, so both are open on the port that it names."""

    def __init__(self, server, transport, take):
        self.server, self.transport, self.take = server, transport, take
        self.address = local_address(server)
        self.lock, self.open = threading.Lock(), True
        self._bind()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.udp, selectors.EVENT_READ, None)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.connection = None
        if transport == "tcp":
            self.connection = socket.create_connection(server, 5)
            self.selector.register(self.connection, selectors.EVENT_READ, bytearray())
        threading.Thread(target=self._run, daemon=True).start()

    def _bind(self):
        for _ in range(50):
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((self.address, 0))
            self.port = self.udp.getsockname()[1]
            self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                self.listener.bind((self.address, self.port))
                self.listener.listen(4)
                return
            except OSError:
                self.listener.close()
                self.udp.close()
        raise OSError("no port is free for both UDP and TCP")

    def send(self, data):
        with self.lock:
            if self.connection:
                self.connection.sendall(data)
            else:
                self.udp.sendto(data, self.server)

    def _run(self):
        while self.open:
            try:
                ready = self.selector.select(0.3)
            except OSError:
                return
            for key, _ in ready:
                try:
                    self._read(key.fileobj, key.data)
                except (OSError, KeyError, ValueError):
                    if not self.open:
                        return

    def _read(self, source, held):
        if source is self.listener:
            connection, _ = source.accept()
            self.selector.register(connection, selectors.EVENT_READ, bytearray())
        elif source is self.udp:
            data, sender = source.recvfrom(65536)
            self.take(data, lambda reply: source.sendto(reply, sender))
        else:
            data = source.recv(65536)
            if not data:
                self.selector.unregister(source)
                return
            held += data
            for message in whole(held):
                self.take(message, source.sendall)

    def close(self):
        self.open = False
        for one in [key.fileobj for key in list(self.selector.get_map().values())]:
            one.close()
        self.selector.close()


def whole(held):
    """Takes the messages that are there in full out of the bytes of a connection (RFC 3261 18.3)."""
    found = []
    while True:
        while held[:2] == b"\r\n":
            del held[:2]
        at = held.find(b"\r\n\r\n")
        if at < 0:
            return found
        length = re.search(rb"^(?:content-length|l)[ \t]*:[ \t]*(\d+)", held[:at], re.M | re.I)
        end = at + 4 + (int(length.group(1)) if length else 0)
        if len(held) < end:
            return found
        found.append(bytes(held[:end]))
        del held[:end]
