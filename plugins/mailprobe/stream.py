"""The octets of one connection: within the deadline and within limits, in plain text or over TLS."""

from __future__ import annotations

import select
import socket
import ssl
from contextlib import suppress
from typing import Any, Callable, TypeVar

from .codes import Code
from .network import Deadline
from .report import Unfinished

# RFC 5321 4.5.3.1.5 allows 512 octets a reply line, and servers exceed it; 8 KiB is what other clients allow.
MAX_LINE = 8192
# Everything a server may say to one command. Most need 2 KiB, a list of 5,000 messages 300; a flood must not fill the
# memory.
MAX_SAID = 1024 * 1024
# One text with its length in front of it, as IMAP and ManageSieve have them; a server may announce 2^31 and mean it.
MAX_LITERAL = 64 * 1024
# How many of them may stand in one line; what we ask for brings one or two.
MAX_LITERALS = 100
# What one read takes at the most: the size of a TLS record.
CHUNK = 16384

R = TypeVar("R")


class Stream:
    """A connected socket. The time limit is asked anew before every read and write, so that dripping octets, which any
    limit for a single read would allow, cannot stretch it. Raises OSError, and `Unfinished` where a limit is exceeded.

    The socket itself never blocks: with a time limit of its own it would take three times the system calls, and in a
    report's threads each of them is an occasion to wait for the other ones.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.deadline = deadline
        sock.setblocking(False)
        self._sock = sock
        self._buffer = bytearray()
        self._heard = 0
        self.max_line = MAX_LINE
        """Octets of one line; the few replies that are longer by nature say so before they are asked for."""

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS session, None in plain text."""
        return self._sock if isinstance(self._sock, ssl.SSLSocket) else None

    @property
    def waiting(self) -> bytes:
        """What has been received and not been read."""
        return bytes(self._buffer)

    def own_address(self) -> str | None:
        """Our IP address in this connection; None for a Unix socket."""
        if self._sock.family == socket.AF_UNIX:
            return None
        return str(self._sock.getsockname()[0]).partition("%")[0]

    def read_line(self) -> bytes | None:
        """The next line without its end, CRLF or LF; None when the stream ends before it does."""
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= self.max_line:
            if not self._receive():
                return None
        if end < 0 or end > self.max_line:
            raise Unfinished(Code.REPLY_TOO_LONG, f"the server sent a line of more than {self.max_line} octets")
        line = self._take(end + 1)[:-1]
        return line[:-1] if line.endswith(b"\r") else line

    def read_octets(self, count: int) -> bytes | None:
        """So many octets; None when the stream ends before them. The caller has bounded the number."""
        while len(self._buffer) < count:
            if not self._receive():
                return None
        return self._take(count)

    def peek(self) -> bool:
        """Receive what has come already, without waiting for more; false at the end of the stream."""
        self.deadline.remaining()
        try:
            data = self._sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        return self._keep(data)

    def send(self, data: bytes) -> None:
        """Send octets, within the deadline even when the server stops reading."""
        self._heard = 0
        # One buffer a command: on loopback, many small writes cost 40 ms each (Nagle and delayed acknowledgement).
        rest = memoryview(data)
        while rest:
            rest = rest[self._awaited(select.POLLOUT, self._sock.send, rest) :]

    def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
        """The handshake; raises what the ssl module raises."""
        sock = context.wrap_socket(self._sock, server_hostname=server_name, do_handshake_on_connect=False)
        # The plain socket has given its descriptor away: from here on this one is to be closed.
        self._sock = sock
        self._awaited(select.POLLIN, sock.do_handshake)
        return sock

    def close(self, polite: bool) -> None:
        """Close; over TLS and when `polite`, say first that nothing more will come (RFC 8446 6.1)."""
        if polite and self.tls is not None:
            # It has gone already, or has not said the same yet: nothing that matters after the farewell.
            with suppress(OSError, ValueError):
                self.tls.unwrap()
        self._sock.close()

    def _receive(self) -> bool:
        if self.tls is None or not self.tls.pending():
            self._wait(select.POLLIN)  # as a rule there is nothing yet
        return self._keep(self._awaited(select.POLLIN, self._sock.recv, CHUNK))

    def _keep(self, data: bytes) -> bool:
        self._heard += len(data)
        if self._heard > MAX_SAID:
            raise Unfinished(Code.REPLY_TOO_LONG, f"the server sent more than {MAX_SAID} octets")
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _awaited(self, event: int, act: Callable[..., R], *arguments: Any) -> R:
        """The result of an operation on the socket that needs an event, or whatever else TLS needs in its place."""
        while True:
            self.deadline.remaining()
            try:
                return act(*arguments)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)
            except BlockingIOError:
                self._wait(event)

    def _wait(self, event: int) -> None:
        """Until the socket is ready for that, or at its end."""
        waiting = select.poll()  # select() itself takes no descriptor beyond 1,023
        waiting.register(self._sock, event)
        if not waiting.poll(self.deadline.remaining() * 1000):
            raise socket.timeout("the time limit has passed")
