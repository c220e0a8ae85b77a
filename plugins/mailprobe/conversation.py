"""What every conversation has in common: one deadline, say, hear, start TLS, the stages, the transcript, the farewell.

A dialect (`smtp.Smtp`) is a small subclass that knows how a reply looks and how to take leave. Whatever the server or
the network does ends as a `Problem` in the report, never as an exception; `UsageError` and our own bugs are exceptions.
"""

from __future__ import annotations

import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, TypeVar

from . import network, tls
from .network import Deadline
from .options import LoginOptions
from .report import CERTIFICATE_CODES, Code, Problem, Report, Severity, Stage, Unfinished
from .stream import MAX_LINE, MAX_SAID, Stream
from .text import BLOT, Blotter, decoded, printable
from .words import RATE_WORDS, TROUBLE_WORDS, guess_protocol, without_challenge

# A transcript is for people: what is longer is cut there (not for the parser).
MAX_SHOWN = 500
# The same for all that a server says; a sane conversation has 5 KiB.
MAX_TRANSCRIPT = 128 * 1024
# Server's words inside a finding: the status line of a pager or a ticket has to hold them.
MAX_WORDS = 200
# The farewell must not cost the verdict, nor the rest of the time limit.
FAREWELL_SECONDS = 1.0
# What the farewell may take beyond the time limit; the whole run ends within the limit and one second.
FAREWELL_GRACE = 0.5
# The lines of one reply. 200 EHLO lines are legal; nothing needs more than these.
MAX_REPLY_LINES = 1000


@dataclass(frozen=True)
class Turn:
    """What the server said in a login: whether it is `done`, and its `challenge` in base64, which may be empty."""

    done: bool
    challenge: str = ""


class Conversation(ABC):
    """One connection to one server, held in lock-step: say a line, hear the answer.

    Use as a context manager; leaving it says goodbye on every path on which the server can still hear it, and closes.
    `inspecting` marks a second connection that only looks at what the first could not, a bad certificate above all.
    """

    def __init__(
        self,
        report: Report[Any],
        options: LoginOptions,
        deadline: Deadline,
        context: ssl.SSLContext | None,
        *,
        inspecting: bool = False,
    ) -> None:
        self.report = report
        self.options = options
        self.inspecting = inspecting
        self.our_turn = False
        """Whether the server waits for us: only then may we speak, be it to say goodbye."""
        self.awaited = "the connection"
        """What we wait for, in the words of a finding."""
        self.guarded = False
        """Whether challenges are left out of the transcript: with SCRAM's, anybody can try passwords on his own."""
        self.peer: tls.Peer | None = None
        """The server's certificate, once there is TLS."""
        self._deadline = deadline
        self._context = context
        self.secrets = set(options.secrets)
        self._blot = Blotter(self.secrets)
        self._connected: Stream | None = None
        self._shown = 0
        self._stage = Stage.CONNECT
        self._judged = frozenset(report.timings)

    # What a dialect defines.

    @abstractmethod
    def farewell(self) -> None:
        """Take leave: QUIT or LOGOUT and its answer."""

    @abstractmethod
    def begin_login(self, mechanism: str, initial: bytes | None) -> Turn:
        """Name a SASL mechanism, with the initial response if there is one. A refusal is raised."""

    @abstractmethod
    def continue_login(self, response: bytes) -> Turn:
        """Answer a challenge."""

    @abstractmethod
    def cancel_login(self) -> None:
        """Break a login off."""

    def wrong_protocol(self, line: str) -> Unfinished:
        """The finding for a greeting that is none."""
        guess = guess_protocol(line)
        looks = f", this looks like {guess}" if guess else ""
        name = self.report.protocol.upper()
        return Unfinished(Code.WRONG_PROTOCOL, f"the server does not speak {name}{looks}: {self.quoted(line)}")

    def usual_refusal(self, refusals: Mapping[Stage, Code], said: str) -> Code:
        """What a refusal is called at this stage, when the server gives no code for it.

        Of a login it counts as one of the password, unless the words `said` are about something else.
        """
        code = refusals.get(self._stage, Code.UNEXPECTED_REPLY)
        return Code.AUTH_FAILED if code is Code.AUTH_REJECTED and TROUBLE_WORDS.search(said[:MAX_WORDS]) else code

    def refused(self, said: str, code: Code, severity: Severity = Severity.FAILURE, limits: bool = True) -> Unfinished:
        """The finding for a refusal in the server's words; if `limits`, those of a rate limit make it one for now."""
        # Later words may be the caller's own: a folder may be named "rate".
        early = self._stage in (Stage.GREETING, Stage.CAPABILITIES, Stage.AUTH) or severity is Severity.TEMPORARY
        if limits and early and RATE_WORDS.search(said[:MAX_WORDS]):
            code, severity = Code.RATE_LIMITED, Severity.TEMPORARY
        for_now = " for now" if severity is Severity.TEMPORARY else ""
        return Unfinished(code, f"{self.asked} refused{for_now}: {self.quoted(said)}", severity)

    def unexpected(self, said: str, severity: Severity = Severity.FAILURE) -> Unfinished:
        """The finding for a reply that does not belong to what was asked."""
        return Unfinished(Code.UNEXPECTED_REPLY, f"unexpected reply to {self.asked}: {self.quoted(said)}", severity)

    def malformed(self, said: str) -> Unfinished:
        """The finding for what is no reply; instead of a greeting, another protocol's."""
        if self.awaited == "the greeting":
            return self.wrong_protocol(said)
        return Unfinished(Code.MALFORMED_REPLY, f"{self.awaited} is malformed: {self.quoted(said)}")

    def endless(self, lines: int) -> Unfinished:
        """The finding for a reply with more lines than any sane one has."""
        return Unfinished(Code.REPLY_TOO_LONG, f"{self.awaited} does not end after {lines} lines")

    def heed(self, line: str) -> bool:
        """Whether a line that nobody asked for is one that the protocol allows at any time."""
        return False

    def interrupted(self, line: str) -> Unfinished:
        """The finding for a line that the server said without having been asked."""
        return Unfinished(Code.UNEXPECTED_REPLY, f"the server spoke without being asked: {self.quoted(line)}")

    # Beginning and end.

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if isinstance(error, Unfinished):
                self.problem(error.code, error.words, error.severity)
            if self.our_turn and (error is None or isinstance(error, Unfinished)):
                self._take_leave(judge=error is None)
        finally:
            if self._connected is not None:
                self._connected.close(polite=self.our_turn)
        return isinstance(error, Unfinished)

    def connect(self) -> None:
        """Connect, and begin TLS when the mode is `implicit`."""
        if self.options.is_socket:
            with self.stage(Stage.CONNECT):
                sock = network.connect_unix(self.options.host, self._deadline)
                self.note(f"connected to {self.options.host}")
        else:
            # A second connection goes to the very address that the first one found.
            host = self.report.address or self.options.hostname
            with self.stage(Stage.RESOLVE):
                candidates = network.resolve(host, self.report.port or 0, self.options.family, self._deadline)
            with self.stage(Stage.CONNECT):
                sock, self.report.address = network.connect(candidates, self._deadline, self.note)
        self._connected = Stream(sock, self._deadline)
        if self.options.tls == "implicit":
            with self.stage(Stage.TLS):
                self.start_tls()
        self.awaited = "the greeting"

    def _take_leave(self, judge: bool) -> None:
        # The farewell has a time limit of its own: a short one, and never much behind the run's.
        left = min(FAREWELL_SECONDS, self._deadline.left() + FAREWELL_GRACE)
        self._stream.deadline = Deadline(max(left, 0.0))
        try:
            with self.stage(Stage.QUIT):
                self.farewell()
        except Unfinished as unfinished:
            # A reply too many may show only now; of a conversation that has ended in a finding it is no news.
            if judge and unfinished.code is Code.UNEXPECTED_REPLY:
                self.problem(unfinished.code, unfinished.words, unfinished.severity)
            else:
                self.remark(f"the farewell failed: {unfinished.words}")

    @property
    def _stream(self) -> Stream:
        if self._connected is None:
            raise RuntimeError("not connected")
        return self._connected

    def keep_secret(self, text: str) -> None:
        """Blot out from now on what was said in a login, too: with a digest, anybody can try passwords on his own."""
        self.secrets.add(text)
        self._blot = Blotter(self.secrets)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """A step of the conversation: timed, naming the problems found in it, and explaining what ends it."""
        self._stage = stage
        started = time.monotonic()
        try:
            yield
        except OSError as error:
            raise network.explain(error, self.awaited, self._deadline) from error
        finally:
            if stage not in self._judged:
                spent = time.monotonic() - started
                self.report.timings[stage] = self.report.timings.get(stage, 0.0) + spent

    def problem(self, code: Code, words: str, severity: Severity = Severity.FAILURE) -> None:
        """Note a finding of the present stage and go on."""
        words = printable(words)
        if self._stage in self._judged:
            # The first connection came through here: what befalls the second is no finding about the service.
            self.note(f"the second connection: {words}")
            return
        self.report.transcript.append(f"*** {words}")
        self.report.problems.append(Problem(code, self._stage, words, severity))

    def remark(self, words: str) -> None:
        """Something that is no finding, but worth knowing."""
        self.report.notes.append(printable(words))
        self.note(words)

    def note(self, words: str) -> None:
        """A line of ours in the transcript."""
        self.report.transcript.append(f"=== {printable(words)}")

    def expect_text(self, banner: str) -> None:
        """Judge the greeting by the text that it must contain, if there is one."""
        wanted = self.options.expect
        if wanted is not None and wanted not in banner:
            self.problem(Code.GREETING_UNEXPECTED, f"the greeting lacks '{wanted}': {self.quoted(banner)}")

    def quoted(self, words: str) -> str:
        """A server's words inside a finding: without our secrets, clean, cut, and seen to be somebody else's."""
        return f"'{printable(self._blot(words).strip(), limit=MAX_WORDS)}'"

    @property
    def asked(self) -> str:
        """What was asked, for the words of a finding."""
        return self.awaited.replace("the reply to ", "").replace("the greeting", "greeting")

    # Speaking and listening.

    @property
    def encrypted(self) -> bool:
        """Whether TLS has begun."""
        return self._stream.tls is not None

    def channel_binding(self) -> tuple[str, bytes] | None:
        """What ties a login to this TLS session (RFC 5056), and its name; None where Python cannot tell.

        That is `tls-unique` (RFC 5929), which TLS 1.3 does not have; `tls-exporter` (RFC 9266) is not in its ssl.
        """
        session = self._stream.tls
        if session is None or session.version() == "TLSv1.3":
            return None
        data = session.get_channel_binding("tls-unique")
        return ("tls-unique", data) if data else None

    def own_address(self) -> str | None:
        """Our IP address in this connection; None for a Unix socket."""
        return self._stream.own_address()

    def say(self, line: str, shown: str | None = None, about: str | None = None) -> None:
        """Send one line; `shown` is what the transcript has in place of a line with a secret.

        `about` are the words of a finding about the reply, where the line itself would not do.
        """
        # Options were checked when they were read; this is the last gate in front of the wire.
        if any(character in line for character in "\r\n\0"):
            raise ValueError(f"a line may hold no CR, LF or NUL: {self._blot(line)!r}")
        shown = self._blot(line) if shown is None else shown
        if shown != BLOT:  # the answer to a challenge belongs to the command that began the login
            self.awaited = f"the reply to {printable(about or shown, limit=60)}"
        self.send(line.encode() + b"\r\n", [shown])

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

    # TLS.

    def start_tls(self) -> None:
        """The handshake; afterwards the report has the facts of the session. Raises `Unfinished`."""
        turn, self.our_turn = self.our_turn, False
        alive, waiting = self._stream.peek(), self._stream.waiting
        if waiting:
            raise self._injected(waiting)
        self.awaited = "the TLS handshake"
        if not alive:
            raise self._closed()
        sock = self._handshake()
        session = self.report.tls
        session.version = sock.version()
        name, dummy, session.cipher_bits = sock.cipher() or (None, None, None)
        session.cipher = name
        session.verified = sock.context.verify_mode is ssl.CERT_REQUIRED
        self.peer = tls.peer(sock)
        trust = "verified" if session.verified else "not verified"
        self.note(f"TLS: {session.version}, {session.cipher}, certificate {trust}")
        self.our_turn = turn

    def _injected(self, waiting: bytes) -> Unfinished:
        words = self.quoted(decoded(waiting))
        if self.options.tls == "implicit":
            return Unfinished(
                Code.TLS_HANDSHAKE_FAILED, f"the server speaks plain text, not TLS, on this port: {words}"
            )
        return Unfinished(Code.STARTTLS_INJECTION, f"plain text behind the go-ahead for TLS: {words}")

    def _handshake(self) -> ssl.SSLSocket:
        if self._context is None:
            raise RuntimeError("no TLS context: the mode is none")
        try:
            return self._stream.start_tls(self._context, self.options.server_name)
        except ssl.SSLCertVerificationError as error:
            self.report.tls.verify_error = tls.reason(error)
            raise
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise  # It hung up, which is not the same as having found no common way.
        except ssl.SSLError as error:
            spoke = "" if error.reason not in tls.NOT_TLS else "; what the server sent is not TLS"
            raise Unfinished(Code.TLS_HANDSHAKE_FAILED, f"TLS handshake failed: {tls.reason(error)}{spoke}") from error


C = TypeVar("C", bound=Conversation)


def hold(dialect: type[C], report: Report[Any], options: LoginOptions, talk: Callable[[C], None]) -> None:
    """Hold a conversation within one deadline, and fill the report.

    When the certificate was the obstacle, a second connection that accepts it collects its facts, and what else can be
    learned without a login. Raises `UsageError` before anything is connected when an option cannot be used.
    """
    context = None if options.tls == "none" else tls.context(options, options.validate_certs)
    started = time.monotonic()
    deadline = Deadline(options.timeout)
    with dialect(report, options, deadline, context) as conversation:
        talk(conversation)
    secrets = conversation.secrets
    if any(problem.code in CERTIFICATE_CODES for problem in report.problems) and deadline.left() > 0:
        report.transcript.append("=== a second connection, without verification, to read the certificate")
        with dialect(report, options, deadline, tls.context(options, verify=False), inspecting=True) as conversation:
            talk(conversation)
    report.elapsed = time.monotonic() - started
    # Late, since reading a certificate costs time (80 ms to import cryptography) that is not the server's.
    if conversation.peer is not None:
        report.certificate = tls.certificate(conversation.peer, report.notes)
    # Last, so that nothing that a server says, be it in a certificate, can carry a secret out of here.
    report.clean(Blotter(conversation.secrets | secrets))
