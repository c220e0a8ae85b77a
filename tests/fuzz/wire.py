"""A server in memory that says what an input tells it to: fast enough for hundreds of conversations a second.

An input is a letter, which chooses the options of the probe, and what the server says: its greeting, and then something
after whatever it hears. Octets below the space part it:

======  ========================================================================
0x1e    the end of what is said at a time
0x1f    the end of a segment within it
0x1d    at the end: the server falls silent; else it closes
0x1c    at the end: it says the last of it over and over
======  ========================================================================
"""

from __future__ import annotations

import select
import socket
import ssl
from dataclasses import dataclass, field
from typing import NoReturn

TURN, SEGMENT, SILENT, ENDLESS = b"\x1e", b"\x1f", b"\x1d", b"\x1c"
# Of a server that never stops, more than the probe hears out.
ENDLESS_OCTETS = 4 * 1024 * 1024


@dataclass
class Turn:
    """What the client said, `None` before the greeting, and what it took of what the server said then."""

    said: bytes | None
    heard: bytearray = field(default_factory=bytearray)


class Wire:
    """The client's end of the connection, as far as a `Stream` needs a socket."""

    family = socket.AF_UNIX

    def __init__(self, data: bytes) -> None:
        self.silent, self.endless = data.endswith(SILENT), data.endswith(ENDLESS)
        said = data.rstrip(SILENT + ENDLESS)
        self.coming = [turn.split(SEGMENT) for turn in said.split(TURN)]
        self.segments = [segment for segment in self.coming.pop(0) if segment]
        self.last = self.segments[-1] if self.segments else b"x"
        self.turns = [Turn(None)]
        self.delivered = 0
        self.closed = False

    def setblocking(self, blocking: bool) -> None:
        assert not blocking, "a read without a time limit"

    def register(self, wire: Wire, event: int) -> None:
        """As select.poll() has it; the wire is its own."""
        assert wire is self

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """Whether there is something to hear, be it the end; of a server that is silent, nobody waits for long."""
        assert milliseconds >= 0
        return [] if self._is_silent else [(0, select.POLLIN)]

    @property
    def _floods(self) -> bool:
        return self.endless and not self.coming and self.delivered < ENDLESS_OCTETS

    @property
    def _is_silent(self) -> bool:
        return not self.segments and not self._floods and bool(self.coming or self.silent)

    def recv(self, size: int) -> bytes:
        assert not self.closed
        if self._is_silent:
            raise BlockingIOError
        if not self.segments and self._floods:
            self.segments.append(self.last * (size // len(self.last) + 1))
        if not self.segments:
            return b""
        segment, rest = self.segments[0][:size], self.segments[0][size:]
        self.segments[:1] = [rest] if rest else []
        self.turns[-1].heard += segment
        self.delivered += len(segment)
        return segment

    def send(self, data: bytes) -> int:
        assert not self.closed
        if not self.coming and not self.silent and not self.endless:
            raise BrokenPipeError(32, "Broken pipe")
        self.turns.append(Turn(bytes(data)))
        self.segments += [segment for segment in (self.coming.pop(0) if self.coming else []) if segment]
        self.last = self.segments[-1] if self.segments else self.last
        return len(data)

    def getsockopt(self, *dummy: int) -> NoReturn:
        """What comes first when TLS begins: there is none here."""
        error = ssl.SSLError(1, "there is no TLS on this wire")
        error.reason = "NO_TLS_ON_THIS_WIRE"
        raise error

    def close(self) -> None:
        self.closed = True
