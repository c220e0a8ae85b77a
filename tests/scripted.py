"""A mail server that plays a script: for conversations that real servers will not hold.

A script is a text that a postmaster can read. One step is one line::

    # The server refuses EHLO for good.         a comment; the first one is the title
    # expect: critical hello-refused            what the check says: ok, warning or critical, and the code or -
    # options: --timeout 2                      what the check is asked beyond the suite's usual options
    # prints: Go away                           its output has this; may be given more than once
    # hides: password                           its output has no such thing; may be given more than once
    S: 220 mx.example.org ESMTP
    C: EHLO *
    S: 550 5.7.1 Go away
    C: QUIT
    S: 221 Bye

``S:``  the server says this and CRLF. Escapes: ``\\r \\n \\t \\0 \\\\``, ``\\xff`` (that octet), ``\\u2028`` (UTF-8).
        The rest of a line is sent to its last blank.
        ``S:`` and ``== raw`` lines that follow each other leave in one segment; ``== wait 0`` parts them.
``C:``  the server hears this, or notes an error and closes. Only ``*`` is special (anything; ``\\*`` is an asterisk),
        case does not matter.
        ``C: <data>`` is a message, to the line with the dot. ``C: <data \\n.\\n>`` is one to that end, and may have
        bare CR and LF. ``C: <literal> TEXT`` are the octets that the line before announced as
        ``{5}`` or ``{5+}`` (IMAP, ManageSieve); the rest of that command follows as a ``C:``, often empty.

In both, ``{line}`` is the line heard last; ``{tag}`` the first word of the command heard last, which goes on after a
``+ `` and after a literal; ``{nonce}`` the ``r=`` of SCRAM (RFC 5802) inside a base64 word of the line heard last;
``{base64 TEXT}`` is TEXT encoded, to the last brace of the line, with escapes; ``{port}`` is the server's own. A test
may give the server more such words.

========================  ==========================================================================
``== wait 0.4``           seconds
``== raw TEXT``           as ``S:``, without CRLF
``== repeat 3``           say the next ``S:`` or ``== raw`` three times
``== segments 1``         from here on octets leave one by one, each in its own segment; 0: as usual
``== drip 0.4 TEXT``      an octet of TEXT every 0.4 s, over and over, until the client goes
``== every 0.4 TEXT``     all of TEXT every 0.4 s, until the client goes
``== flood TEXT``         TEXT again and again, 64 MiB of it or until the client goes
``== flood 8 MiB TEXT``   the same, 8 MiB of it
``== forgive``            from here on, a command out of turn is answered as it is elsewhere in the script
``== silence``            listen, say nothing, until the client goes
``== stop reading``       neither listen nor speak, until the server is stopped
``== any``                answer 250 to every line until QUIT, and that, too
``== any TEXT``           answer TEXT to every line until QUIT or LOGOUT, which the next step may answer
``== starttls``           TLS from here on (``== tls``: the same, reads better as the first line)
``== close``              close the connection; inside TLS with a close_notify, as one should
``== cut``                close it without one
``== reset``              close it with RST
========================  ==========================================================================

At the script's end the server closes. ``--- next connection ---`` starts the script of the next connection; the last
one serves all that follow. A client that goes early is no error.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import select
import shlex
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Union, final

FLOOD_MIB = 64  # more than any client may keep, and sent in a second
GRACE = 0.1  # seconds a conversation that is about to end has for it when the server is stopped
SEGMENT_PAUSE = 0.001  # seconds; without it the kernel joins small segments before the client reads them
SMALL_WINDOW = 4096  # octets the kernel takes for a server that stops reading

Heard = Union[str, bytes]

ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.?)", re.DOTALL)
BASE64 = re.compile(rb"\{base64 (.*)\}")
LITERAL = re.compile(rb"\{([0-9]{1,9})\+?\}$")


class ScriptError(ValueError):
    """The script itself is wrong."""


class Over(Exception):
    """The conversation is over; the words say why."""


@dataclass
class Step:
    """One thing to do: the name of a method of `Connection` and what it needs."""

    do: str
    text: bytes = b""
    number: float = 0.0


@dataclass
class Script:
    """A parsed script: what it is about, what is expected of the check, and the steps of each connection."""

    title: str = ""
    state: str = ""
    code: str = ""
    option_text: str = ""
    prints: list[str] = field(default_factory=list)
    hides: list[str] = field(default_factory=list)
    sections: list[list[Step]] = field(default_factory=lambda: [[]])

    @classmethod
    def read(cls, source: str | Path) -> Script:
        """Parse a script's text or file. Raises `ScriptError` with the line's number."""
        name, text = (source.name, source.read_text("utf-8")) if isinstance(source, Path) else ("script", source)
        script, repeat = cls(), 1
        for number, line in enumerate(text.split("\n"), 1):
            try:
                repeat = script._add(line, repeat)
            except ValueError as error:
                raise ScriptError(f"{name}:{number}: {error}: {line!r}") from None
        return script

    @property
    def needs_tls(self) -> bool:
        """Whether the server must have a certificate for it."""
        return any(step.do == "start_tls" for section in self.sections for step in section)

    @property
    def stops_reading(self) -> bool:
        """Whether the kernel must be kept from reading in the server's place."""
        return any(step.do == "stop_reading" for section in self.sections for step in section)

    def options(self, **names: str) -> list[str]:
        """The ``# options:`` as arguments, with ``{name}`` replaced, as in ``--ca-file {ca_file}``."""
        return [word.format(**names) for word in shlex.split(self.option_text)]

    def _add(self, line: str, repeat: int) -> int:
        """Take a line in; give back how often the next text is to be said."""
        steps = self.sections[-1]
        mark, _, rest = line.partition(" ")
        if line.startswith("#"):
            self._comment(line.lstrip("# ").rstrip())
        elif line.startswith("---"):
            self.sections.append([])
        elif mark == "S:":
            _say(steps, (unescape(rest) + b"\r\n") * repeat)
        elif mark == "C:":
            steps.append(_hear(rest.strip()))
        elif mark == "==":
            return self._directive(rest, repeat)
        elif line.strip():
            raise ScriptError("neither S:, C:, ==, --- nor a comment")
        return 1 if mark == "S:" else repeat

    def _comment(self, words: str) -> None:
        key, _, value = words.partition(":")
        if key == "expect":
            self.state, self.code = value.split()
        elif key == "options":
            self.option_text = value.strip()
        elif key in ("prints", "hides"):
            getattr(self, key).append(value.strip())
        elif not self.title:
            self.title = words

    def _directive(self, text: str, repeat: int) -> int:
        steps = self.sections[-1]
        verb, _, rest = text.partition(" ")
        if verb == "repeat":
            return int(rest)
        if verb == "raw":
            _say(steps, unescape(rest) * repeat)
        elif verb in ("drip", "every"):
            seconds, _, words = rest.partition(" ")
            steps.append(Step(verb, _some(words), float(seconds)))
        elif verb == "flood":
            sized = re.fullmatch(r"(\d+) MiB (.*)", rest)
            mib, words = (int(sized[1]), sized[2]) if sized else (FLOOD_MIB, rest)
            steps.append(Step("flood", _some(words), mib))
        elif verb in ("wait", "segments"):
            steps.append(Step(verb, number=float(rest)))
        elif verb == "any":
            steps.append(Step("any", unescape(rest)))
        elif text.strip() in PLAIN_DIRECTIVES:
            steps.append(Step(PLAIN_DIRECTIVES[text.strip()]))
        else:
            raise ScriptError("unknown directive")
        return 1 if verb == "raw" else repeat


PLAIN_DIRECTIVES = {
    "close": "close",
    "cut": "cut",
    "forgive": "forgive",
    "reset": "reset",
    "silence": "silence",
    "starttls": "start_tls",
    "stop reading": "stop_reading",
    "tls": "start_tls",
}


def _say(steps: list[Step], data: bytes) -> None:
    """Add words to say, to the last step if that says something too: one segment."""
    if steps and steps[-1].do == "say":
        steps[-1].text += data
    else:
        steps.append(Step("say", data))


def _hear(pattern: str) -> Step:
    data = re.fullmatch("<data(?: (.+))?>", pattern)
    if data:
        return Step("hear_data", unescape(data[1] or ""))
    encoded = BASE64.sub(lambda found: b"{base64 " + unescape(found[1].decode()) + b"}", pattern.encode())
    mark, _, literal = encoded.partition(b" ")
    return Step("hear_literal", literal or b"*") if mark == b"<literal>" else Step("hear", encoded)


def _some(words: str) -> bytes:
    if not words:
        raise ScriptError("nothing to send")
    return unescape(words)


def unescape(text: str) -> bytes:
    """The octets that a text with escapes stands for."""

    def octets(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if name[:1] in (b"x", b"u") and len(name) > 1:
            value = int(name[1:], 16)
            return bytes([value]) if name[:1] == b"x" else chr(value).encode()
        if name not in ESCAPES:
            raise ScriptError("unknown escape")
        return ESCAPES[name]

    return ESCAPE.sub(octets, text.encode())


def matches(pattern: bytes, line: bytes) -> bool:
    r"""Whether a line heard is the one expected: ``*`` stands for anything, ``\*`` for itself, case does not matter."""
    parts = re.split(rb"(?<!\\)\*", pattern)
    wanted = b".*".join(re.escape(part.replace(b"\\*", b"*")) for part in parts)
    return re.fullmatch(wanted, line, re.IGNORECASE | re.DOTALL) is not None


class Inside(ssl.SSLSocket):
    """A socket that closes when it finds the client gone: before 3.10, wrap_socket() leaves that to the collector."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError:
            self.close()
            raise


class Connection(threading.Thread):
    """One conversation, in a thread of its own."""

    def __init__(self, server: Scripted, sock: socket.socket, steps: list[Step], number: int) -> None:
        super().__init__(name=f"scripted-{number}", daemon=True)
        self.server = server
        self.sock = sock
        self.steps = steps
        self.number = number
        self.place = 0  # of the next step
        self.forgiving = False
        self.heard = server.heard[number - 1]
        self.buffer = b""
        self.last_line = b""
        self.tag = b""
        self.goes_on = False  # whether the next line belongs to the command heard last
        self.segment = 0
        self.lock = threading.Lock()  # held while the socket changes or closes: stop() comes from another thread

    def run(self) -> None:
        """Play the script to its end, or to the client's."""
        ending = "the script ended"
        try:
            while self.place < len(self.steps):
                step = self.steps[self.place]
                self.place += 1
                handler: Callable[[Step], None] = getattr(self, f"do_{step.do}")
                handler(step)
        except Over as over:
            ending = str(over)
        except OSError as error:  # reset, broken pipe, a handshake that the client broke off
            ending = f"the client went: {error}"
        except Exception as error:  # a bug in a thread must reach the test
            ending = "a bug"
            self.error(repr(error))
        finally:
            self.server.endings[self.number - 1] = ending
            self.hang_up()

    def stop(self) -> None:
        """Wake the thread, wherever it reads or writes; called by the server."""
        with self.lock, contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket.shutdown() would pull the rug from under it

    def error(self, words: str) -> None:
        self.server.errors.append(f"connection {self.number}: {words}")

    # What the server says.

    def do_say(self, step: Step) -> None:
        words = self.filled(step.text)
        self.goes_on = re.search(rb"(?:^|\n)\+(?: [^\n]*)?\r?\n$", words) is not None
        size = self.segment or len(words)
        for start in range(0, len(words), size or 1):
            if self.segment:
                self.sleep(SEGMENT_PAUSE)
            self.sock.sendall(words[start : start + size])

    def filled(self, text: bytes) -> bytes:
        """A text with what stands for what was heard, and for the words that the server was given."""
        known = {"tag": self.tag, "line": self.last_line, "nonce": nonce(self.last_line), "port": str(self.server.port)}
        for name, words in (*known.items(), *self.server.words.items()):
            text = text.replace(b"{%s}" % name.encode(), words if isinstance(words, bytes) else words.encode())
        return BASE64.sub(lambda found: base64.b64encode(found[1]), text)

    def do_segments(self, step: Step) -> None:
        self.segment = int(step.number)

    def do_drip(self, step: Step) -> None:
        while True:
            for octet in step.text:
                self.sock.sendall(bytes([octet]))
                self.sleep(step.number)

    def do_every(self, step: Step) -> None:
        while True:
            self.sock.sendall(step.text)
            self.sleep(step.number)

    def do_flood(self, step: Step) -> None:
        chunk = step.text * (65536 // len(step.text) + 1)
        for _ in range(int(step.number * 2**20) // len(chunk) + 1):
            self.sock.sendall(chunk)

    # What it hears.

    def do_hear(self, step: Step) -> None:
        pattern = self.filled(step.text)  # `{tag}` and the like are of the line before
        line = self.read_line()
        if not self.goes_on:
            self.tag = line.partition(b" ")[0]
        self.goes_on = False
        if self.forgiving and not matches(pattern, line):
            self.place = self.place_of(line)
        else:
            self.match(pattern, line)

    def place_of(self, line: bytes) -> int:
        """Where the script answers a command that comes out of turn: later, or earlier, or nowhere."""
        places = [*range(self.place, len(self.steps)), *range(self.place)]
        for place in places:
            step = self.steps[place]
            if step.do == "hear" and matches(self.filled(step.text), line):
                return place + 1
        raise Over("the client said what the script does not know")

    def do_forgive(self, _step: Step) -> None:
        self.forgiving = True

    def do_hear_literal(self, step: Step) -> None:
        announced = LITERAL.search(self.last_line)
        if announced is None:
            self.error(f"no literal was announced: {text_of(self.last_line)!r}")
            raise Over("the client said something else")
        while len(self.buffer) < int(announced[1]):
            self.receive()
        literal, self.buffer = self.buffer[: int(announced[1])], self.buffer[int(announced[1]) :]
        self.heard.append(literal)
        self.goes_on = True
        self.match(self.filled(step.text), literal)

    def match(self, pattern: bytes, heard: bytes) -> None:
        if not matches(pattern, heard):
            self.error(f"expected {text_of(pattern)!r}, heard {text_of(heard)!r}")
            raise Over("the client said something else")

    def do_hear_data(self, step: Step) -> None:
        if step.text:
            self.heard.append(self.read_to(step.text)[: -len(step.text)])
            return
        body = b""
        while not (b"\r\n" + body).endswith(b"\r\n.\r\n"):
            body += self.read_to(b"\n")
        body = body[: -len(b".\r\n")]
        if re.search(rb"(?<!\r)\n|\r(?!\n)", body):
            self.error("the message has a bare CR or LF")
        self.heard.append(body)

    def do_any(self, step: Step) -> None:
        while True:
            line = self.read_line()
            self.tag, last = line.partition(b" ")[0], line.upper().rpartition(b" ")[2]
            if last in (b"QUIT", b"LOGOUT"):
                break
            self.sock.sendall(self.filled(step.text or b"250 OK") + b"\r\n")
        if not step.text:
            self.sock.sendall(b"221 Bye\r\n")
            raise Over("the client said QUIT")

    def do_silence(self, _step: Step) -> None:
        while True:  # what comes may be the client's half of a TLS handshake: not judged
            self.heard.append(text_of(self.read_to(b"\n").rstrip(b"\r\n")))

    def do_stop_reading(self, _step: Step) -> None:
        self.server.stopping.wait()
        raise Over("the server was stopped")

    def do_wait(self, step: Step) -> None:
        self.sleep(step.number)

    def read_line(self) -> bytes:
        line = self.read_to(b"\n")
        if not line.endswith(b"\r\n"):
            self.error(f"a line without CRLF: {text_of(line)!r}")
        self.last_line = line.rstrip(b"\r\n")
        self.heard.append(text_of(self.last_line))
        return self.last_line

    def read_to(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self.receive()
        line, _, self.buffer = self.buffer.partition(end)
        return line + end

    def receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Over("the client went")
        self.server.heard_bytes[self.number - 1] += data
        self.buffer += data

    def sleep(self, seconds: float) -> None:
        if self.server.stopping.wait(seconds):
            raise Over("the server was stopped")

    # How it changes and ends.

    def do_start_tls(self, _step: Step) -> None:
        if self.buffer:
            self.error(f"said before the handshake: {text_of(self.buffer)!r}")
            raise Over("the client said something else")
        assert self.server.tls
        with self.lock:
            self.sock = self.server.tls.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def do_close(self, _step: Step) -> None:
        raise Over("the server closed")

    def do_cut(self, _step: Step) -> None:
        self.hang_up(polite=False)
        raise Over("the server cut")

    def do_reset(self, _step: Step) -> None:
        with self.lock:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
        raise Over("the server reset")

    def hang_up(self, polite: bool = True) -> None:
        """Close, once; what waits unread is read first, or the kernel would send RST instead of FIN."""
        with self.lock, contextlib.suppress(OSError, ValueError):
            if self.sock.fileno() == -1:
                return
            try:
                self.sock.settimeout(0)
                with contextlib.suppress(OSError):
                    while data := self.sock.recv(65536):
                        self.server.heard_bytes[self.number - 1] += data
                if polite and isinstance(self.sock, ssl.SSLSocket):
                    with contextlib.suppress(OSError):
                        self.sock.unwrap()  # says close_notify; the client's own is not waited for
            finally:
                self.sock.close()


@final
class Scripted:
    """A server that plays a script to each client: ``with Scripted(text_or_path) as server: ... server.port``.

    `tls` is the server's context for scripts that need one. `host` may be ``::1``; `path` makes it a Unix socket.
    Without a `port`, it takes one that is free.
    `words` are what else may stand in braces in the script, such as a password, by name.

    `heard` has for each connection the lines it heard, as str, and messages, as bytes; `heard_bytes` every octet
    (inside TLS: as decrypted). `errors` has what the client said against the script, `endings` how each ended.
    """

    def __init__(
        self,
        script: Script | str | Path,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | Path | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.script = script if isinstance(script, Script) else Script.read(script)
        if self.script.needs_tls and tls is None:
            raise ScriptError("the script speaks TLS: give the server a context")
        self.tls = tls
        if tls:
            tls.sslsocket_class = Inside
        self.host = host
        self.words = dict(words or {})
        self.path = str(path) if path else ""
        self.port = port
        self.heard: list[list[Heard]] = []
        self.heard_bytes: list[bytes] = []
        self.endings: list[str] = []
        self.errors: list[str] = []
        self.stopping = threading.Event()
        self._threads: list[Connection] = []
        self._accepting = threading.Lock()

    @property
    def connections(self) -> int:
        """How many clients came."""
        return len(self.heard)

    def __enter__(self) -> Scripted:
        family = socket.AF_UNIX if self.path else socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        if self.script.stops_reading:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        try:
            self._listener.bind(self.path or (self.host, self.port))
        except OSError:
            self._listener.close()
            raise
        self._listener.listen(64)
        self._listener.setblocking(False)
        if not self.path:
            self.port = self._listener.getsockname()[1]
        self._wake = socket.socketpair()
        self._acceptor = threading.Thread(target=self._listen, name="scripted-accept", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(GRACE)
        self.stopping.set()
        self._wake[1].close()
        self._acceptor.join(5)
        self._wake[0].close()
        self._listener.close()
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(5)
            if thread.is_alive():
                self.errors.append(f"{thread.name} did not end")
        if self.path:
            Path(self.path).unlink()

    def finish(self, seconds: float = 2.0) -> bool:
        """Let the conversations under way come to their end; whether they all did. Leaving the `with` does it too."""
        self._accept()  # a client that came and went already is to be heard as well
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _listen(self) -> None:
        while not self.stopping.is_set():
            select.select([self._listener, self._wake[0]], [], [])
            self._accept()

    def _accept(self) -> None:
        """Take whoever waits, in the order of their coming."""
        with self._accepting, contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(True)
                if not self.path:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.heard.append([])
                self.heard_bytes.append(b"")
                self.endings.append("")
                sections = self.script.sections
                number = self.connections
                thread = Connection(self, sock, sections[min(number, len(sections)) - 1], number)
                thread.start()
                self._threads.append(thread)


def nonce(line: bytes) -> bytes:
    """The nonce in the SCRAM message that a line has in base64; empty when there is none."""
    for word in line.replace(b'"', b" ").split():
        with contextlib.suppress(binascii.Error):
            found = re.search(rb"(?:^|,)r=([^,]+)", base64.b64decode(word, validate=True))
            if found:
                return found[1]
    return b""


def text_of(octets: bytes) -> str:
    """Octets as a text in which nothing is lost."""
    return octets.decode("utf-8", "backslashreplace")
