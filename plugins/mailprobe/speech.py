"""Saying and hearing lines on the one connection of a conversation; its transcript, and what must not be in there."""

from __future__ import annotations

from typing import Any

from .codes import Code
from .families import PromiseOptions
from .network import Deadline
from .report import Report, Unfinished
from .stream import MAX_LINE, MAX_SAID, Stream
from .text import BLOT, Blotter, decoded, printable
from .words import without_challenge

# A transcript is for people: what is longer is cut there (not for the parser).
MAX_SHOWN = 500
# The same for all that a server says; a sane conversation has 5 KiB.
MAX_TRANSCRIPT = 128 * 1024
# Server's words inside a finding: the status line of a pager or a ticket has to hold them.
MAX_WORDS = 200
# How long the server may take to close, where that is awaited at all.
END_SECONDS = 1.0


class Speech:
    """One connection to one server, on which lines are said and heard in lock-step.

    Whatever the server or the network does is raised as `Unfinished` or OSError.
    """

    def __init__(self, report: Report[Any], options: PromiseOptions, deadline: Deadline) -> None:
        self.report = report
        self.options = options
        self.our_turn = False
        """Whether the server waits for us: only then may we speak, be it to say goodbye."""
        self.awaited = "the connection"
        """What we wait for, in the words of a finding."""
        self.guarded = False
        """Whether challenges are left out of the transcript: with SCRAM's, anybody can try passwords on his own."""
        self._deadline = deadline
        self.secrets = set(options.secrets)
        self._blot = Blotter(self.secrets)
        self._connected: Stream | None = None
        self._shown = 0

    def heed(self, line: str) -> bool:
        """Whether a line that nobody asked for is one that the protocol allows at any time."""
        return False

    def interrupted(self, line: str) -> Unfinished:
        """The finding for a line that the server said without having been asked."""
        return Unfinished(Code.UNEXPECTED_REPLY, f"the server spoke without being asked: {self.quoted(line)}")

    @property
    def _stream(self) -> Stream:
        if self._connected is None:
            raise RuntimeError("not connected")
        return self._connected

    def keep_secret(self, text: str) -> None:
        """Blot out from now on what was said in a login, too: with a digest, anybody can try passwords on his own."""
        self.secrets.add(text)
        self._blot = Blotter(self.secrets)

    def remark(self, words: str) -> None:
        """Something that is no finding, but worth knowing."""
        self.report.notes.append(printable(words))
        self.note(words)

    def note(self, words: str) -> None:
        """A line of ours in the transcript."""
        self.report.transcript.append(f"=== {printable(words)}")

    def quoted(self, words: str) -> str:
        """A server's words inside a finding: without our secrets, clean, cut, and seen to be somebody else's."""
        return f"'{printable(self._blot(words).strip(), limit=MAX_WORDS)}'"

    @property
    def asked(self) -> str:
        """What was asked, for the words of a finding."""
        return self.awaited.replace("the reply to ", "").replace("the greeting", "greeting")

    def seconds_left(self) -> float:
        """What is left of the time limit, for what is computed and not heard."""
        return self._deadline.left()

    # Speaking and listening.

    @property
    def encrypted(self) -> bool:
        """Whether TLS has begun."""
        return self._stream.tls is not None

    def own_address(self) -> str | None:
        """Our IP address in this connection; None for a Unix socket."""
        return self._stream.own_address()

    def say(self, line: str, shown: str | None = None, about: str | None = None, behind: str = "") -> None:
        """Send one line; `shown` is what the transcript has in place of a line with a secret.

        `about` are the words of a finding about the reply, where the line itself would not do. `behind` is a second
        line in the same packet, which a promise needs.
        """
        # Options were checked when they were read; this is the last gate in front of the wire.
        if any(character in line for character in "\r\n\0"):
            raise ValueError(f"a line may hold no CR, LF or NUL: {self._blot(line)!r}")
        shown = self._blot(line) if shown is None else shown
        if shown != BLOT:  # the answer to a challenge belongs to the command that began the login
            self.awaited = f"the reply to {printable(about or shown, limit=60)}"
        lines = [line, behind] if behind else [line]
        self.send("".join(f"{each}\r\n" for each in lines).encode(), [shown, *lines[1:]])

    def send(self, data: bytes, shown: list[str]) -> None:
        """Send octets, within the deadline even when the server stops reading; `shown` are their transcript's lines."""
        self._hear_nothing(shown[0])
        for line in shown:
            self._show(" ~> " if self.encrypted else " -> ", line)
        self.our_turn = False
        self._stream.max_line = MAX_LINE
        self._stream.send(data)

    def hear(self, shown: bool = True) -> str:
        """The next line of the server's, without its end; in the transcript if `shown`.

        It is as it was said: it may hold our secrets, since a password may be a word that the protocol needs, and what
        a terminal would act on. What is shown is cleaned in `_show()`, `quoted()` and `Report.clean()`.
        """
        read = self._stream.read_line()
        if read is None:
            raise self._closed()
        line = decoded(read)
        if shown:
            self._show_heard(line)
        return line

    def hear_octets(self, count: int) -> str:
        """So many octets, a literal; the caller has bounded the number."""
        read = self._stream.read_octets(count)
        if read is None:
            raise self._closed()
        text = decoded(read)
        self._show_heard(f'"{text}"' if self.guarded else text)
        return text

    def hear_the_end(self) -> None:
        """Make sure that nothing more comes until the server closes, which is not waited for long."""
        self._stream.deadline = Deadline(min(END_SECONDS, max(self._deadline.left(), 0.0)))
        try:
            line = self.hear()
        except (OSError, Unfinished):
            return
        raise self.interrupted(line)

    def long_lines(self) -> None:
        """Take lines of any length up to the next command; the octets of a reply are bounded all the same."""
        self._stream.max_line = MAX_SAID

    def _show_heard(self, line: str) -> None:
        line = line[: MAX_SHOWN * 2]  # more than is shown, so that a secret at the cut is seen as one
        self._shown += len(line)
        if self._shown < MAX_TRANSCRIPT:
            self._show("<~  " if self.encrypted else "<-  ", without_challenge(line) if self.guarded else line)
        elif self._shown - len(line) < MAX_TRANSCRIPT:
            self.note("the server says more than goes into a transcript")

    def _show(self, mark: str, line: str) -> None:
        self.report.transcript.append(mark + printable(self._blot(line), limit=MAX_SHOWN))

    def _closed(self) -> Unfinished:
        words = f"the server closed the connection, waiting for {self.awaited}"
        # Of a secret that is sent back only in part nothing would be recognised.
        if self._stream.waiting and not self.options.secrets:
            words += f"; its last words were {self.quoted(decoded(self._stream.waiting))}"
        return Unfinished(Code.CONNECTION_CLOSED, words)

    def _hear_nothing(self, before: str) -> None:
        """Make sure that the server is silent before we speak: replies are strictly paired with commands."""
        alive = self._stream.peek()
        while waiting := self._stream.waiting:
            # Of a line that the protocol allows at any time, the rest is waited for.
            whole = b"\n" in waiting or self.heed(decoded(waiting))
            line = self.hear() if whole else decoded(waiting)
            if not self.heed(line):
                self.our_turn = False
                raise self.interrupted(line)
        if not alive:
            self.our_turn = False
            raise Unfinished(Code.CONNECTION_CLOSED, f"the server closed the connection before our {before[:60]}")
