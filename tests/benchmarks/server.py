"""The SMTP server that all are measured with: it costs little, so that what is measured is the one that asks.

Why not Postfix: a session with STARTTLS costs it several times the CPU time of the quickest client here, and on a small
machine all would seem to be equally fast, namely as fast as Postfix. Why not Dovecot: its submission service needs a
server behind it. Here each address is a process that takes one connection after the other, without threads or an event
loop; a session costs little more than what OpenSSL takes for it, and `cpu_seconds()` tells how much that was.

It answers at once, or as over a network: then a session takes 40 ms more, in which nobody computes.

Also the two kinds of servers that never answer: one takes connections and is silent, one does not even take them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from multiprocessing.sharedctypes import Synchronized

from ..servers.certificates import Certificate
from .rivals import cpu_seconds

PATIENCE = 30  # seconds after which a client that says nothing more has gone
BACKLOG = 1024
NETWORK_SECONDS = 0.04

GREETING = b"220 mail.example.test ESMTP\r\n"
EXTENSIONS = b"250-PIPELINING\r\n250-SIZE 10240000\r\n250-ETRN\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
REPLIES = {
    b"EHLO": b"250-mail.example.test\r\n%b250-STARTTLS\r\n250 CHUNKING\r\n" % EXTENSIONS,
    b"STAR": b"220 2.0.0 Ready to start TLS\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
REPLIES_IN_TLS = {**REPLIES, b"EHLO": b"250-mail.example.test\r\n%b250 CHUNKING\r\n" % EXTENSIONS}
UNKNOWN = b"500 5.5.2 Command not recognized\r\n"


class Server:
    """One process for each address; from `with` to its end."""

    at_once: Synchronized[bool]
    """Whether it answers at once; a connection keeps to what it was when it began."""

    def __init__(self, certificate: Certificate, addresses: list[str], port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_path, certificate.key_path)
        fork = multiprocessing.get_context("fork")
        self.at_once = fork.Value(ctypes.c_bool, True)
        self._listening = [socket.create_server((address, port), backlog=BACKLOG) for address in addresses]
        self._processes = [
            fork.Process(target=_serve, args=(listening, context, self.at_once), daemon=True)
            for listening in self._listening
        ]

    def __enter__(self) -> Server:
        for process in self._processes:
            process.start()
        for listening in self._listening:
            listening.close()
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def cpu_seconds(self) -> float:
        """What all processes have used since they began."""
        return sum(cpu_seconds(process.pid) for process in self._processes if process.pid)


class Silent(ExitStack):
    """Servers that never answer, until the block ends: the first half takes connections, the others drop them."""

    def __init__(self, addresses: list[str], port: int) -> None:
        super().__init__()
        for address in addresses[: len(addresses) // 2]:
            self.enter_context(socket.create_server((address, port), backlog=BACKLOG))
        for address in addresses[len(addresses) // 2 :]:
            self.enter_context(socket.create_server((address, port), backlog=0))
            # A queue that is full: the kernel drops what else comes, as a firewall does.
            for _ in range(2):
                waiting = self.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))


def _serve(listening: socket.socket, context: ssl.SSLContext, at_once: Synchronized[bool]) -> None:
    while True:
        connection, _ = listening.accept()
        # Or the kernel would let 40 ms pass between two small packets now and then.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # whatever a client does is its own affair
            _talk(connection, context, 0.0 if at_once.value else NETWORK_SECONDS)
        connection.close()


def _talk(connection: socket.socket, context: ssl.SSLContext, delay: float) -> None:
    connection.settimeout(PATIENCE)
    time.sleep(delay)
    connection.sendall(GREETING)
    if _answer(connection, REPLIES) == b"STAR":
        with context.wrap_socket(connection, server_side=True) as secured:
            _answer(secured, REPLIES_IN_TLS)


def _answer(connection: socket.socket, replies: dict[bytes, bytes]) -> bytes:
    """Answer until the client wants TLS or leaves; returns the last command."""
    while command := connection.recv(4096)[:4].upper():
        connection.sendall(replies.get(command, UNKNOWN))
        if command in (b"STAR", b"QUIT"):
            break
    return command
