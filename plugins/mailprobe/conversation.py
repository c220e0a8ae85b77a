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
from typing import Any, ClassVar, TypeVar

from . import network, tls
from .codes import Code, Severity, Stage
from .families import PromiseOptions
from .network import Candidate, Deadline
from .report import Report, Unfinished
from .speech import MAX_WORDS, Speech
from .stream import Stream
from .text import decoded, printable
from .words import OUTAGE_WORDS, RATE_WORDS, TROUBLE_WORDS, guess_protocol

# The farewell must not cost the verdict, nor the rest of the time limit.
FAREWELL_SECONDS = 1.0
# What the farewell may take even where there is no time left; the whole run ends within the limit and one second.
FAREWELL_GRACE = 0.5
# The lines of one reply. 200 EHLO lines are legal; nothing needs more than these.
MAX_REPLY_LINES = 1000


C = TypeVar("C", bound="Conversation")


@dataclass(frozen=True)
class Turn:
    """What the server said in a login: whether it is `done`, and its `challenge` in base64, which may be empty."""

    done: bool
    challenge: str = ""


class Conversation(Speech, ABC):
    """One connection to one server, held in lock-step: say a line, hear the answer.

    Use as a context manager; leaving it says goodbye on every path on which the server can still hear it, and closes.
    `inspecting` marks a second connection that only looks at what the first could not, a bad certificate above all.
    """

    def __init__(
        self,
        report: Report[Any],
        options: PromiseOptions,
        deadline: Deadline,
        context: ssl.SSLContext | None,
        candidates: list[Candidate] | None = None,
        *,
        inspecting: bool = False,
    ) -> None:
        super().__init__(report, options, deadline)
        self.candidates = candidates
        """The addresses to try, None when the name has to be looked up; once connected, the one."""
        self.inspecting = inspecting
        self.peer: tls.Peer | None = None
        """The server's certificates, once there is TLS."""
        self.ended_at: Stage | None = None
        """The stage of the finding with which there was no going on; None where there was."""
        self.login_refused = False
        """Whether another address has refused this login, so that it is not tried again."""
        self._context = context
        self._stage = Stage.CONNECT

    # What a dialect defines.

    plaintext_logins: ClassVar[tuple[str, ...]] = ("PLAIN", "LOGIN")
    """The mechanisms with which a login without TLS would be tried."""
    login_changes_capabilities: ClassVar[bool] = False
    """Whether the server tells only after a login all that it can do."""
    harmless_command: ClassVar[str]
    """One that a server answers before a login, whatever it thinks of it, and that changes nothing."""

    @property
    def offered_logins(self) -> list[str]:
        """The mechanisms that the server itself names."""
        return list(self.report.facts.auth_mechanisms)

    @abstractmethod
    def greet(self) -> None:
        """Hear the greeting, and judge it."""

    @abstractmethod
    def ask_capabilities(self) -> None:
        """Ask what the server offers; of logins `facts.auth_mechanisms`."""

    @abstractmethod
    def ask_starttls(self, behind: str = "") -> None:
        """Say that TLS shall begin, `behind` being a command in the same packet, and hear the go-ahead."""

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
        """The finding for a greeting that is none; one of our own protocol's is a broken one."""
        guess = guess_protocol(line)
        name = self.report.protocol.upper()
        if guess and name in guess.upper():
            return Unfinished(Code.MALFORMED_REPLY, f"the greeting is malformed: {self.quoted(line)}")
        looks = f", this looks like {guess}" if guess else ""
        return Unfinished(Code.WRONG_PROTOCOL, f"the server does not speak {name}{looks}: {self.quoted(line)}")

    def usual_refusal(self, refusals: Mapping[Stage, Code], said: str) -> Code:
        """What a refusal is called at this stage, when the server gives no code for it.

        Of a login it counts as one of the password, unless the words `said` are about something else.
        """
        code = refusals.get(self._stage, Code.UNEXPECTED_REPLY)
        return Code.AUTH_FAILED if code is Code.AUTH_REJECTED and TROUBLE_WORDS.search(said[:MAX_WORDS]) else code

    def refused(self, said: str, code: Code, severity: Severity = Severity.FAILURE, limits: bool = True) -> Unfinished:
        """The finding for a refusal in the server's words; if `limits`, those of a rate limit make it one for now."""
        # Postfix says 5.7.8, and Cyrus [AUTH], also when there was nobody who could judge the password.
        if code is Code.AUTH_REJECTED and OUTAGE_WORDS.search(said[:MAX_WORDS]):
            code = Code.AUTH_FAILED
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

    # Beginning and end.

    def begin(self) -> None:
        """Everything up to the login, or what comes in its place."""
        self.arrive()
        if self.options.refuse_plaintext_login and self.offered_logins:
            offered = self.quoted(" ".join(self.offered_logins))
            self.problem(Code.PLAINTEXT_LOGIN_NOT_REFUSED, f"login is offered without TLS, by {offered}")
        if self.options.tls == "starttls":
            self.secure()
        if self.options.username is None or not self.login_changes_capabilities:
            self.judge_capabilities(self.report.facts.capabilities)

    def arrive(self) -> None:
        """Connect, and hear who is there and what he offers."""
        self.connect()
        with self.stage(Stage.GREETING):
            self.greet()
        with self.stage(Stage.CAPABILITIES):
            self.ask_capabilities()

    def secure(self) -> None:
        """Change to TLS; what was heard before it is forgotten, and asked anew."""
        with self.stage(Stage.TLS):
            self.ask_starttls()
            self.start_tls()
        with self.stage(Stage.CAPABILITIES):
            self.ask_capabilities()

    def judge_capabilities(self, lines: list[str]) -> None:
        """See whether the server offers what it must, and nothing that it must not."""
        offered = [line.upper().split() for line in lines]
        for names, wanted in ((self.options.require_capability, True), (self.options.refuse_capability, False)):
            for name in names:
                keyword, *words = name.upper().split()
                found = any(line[:1] == [keyword] and set(words) <= set(line) for line in offered)
                if wanted and not found:
                    self.problem(Code.CAPABILITY_MISSING, f"the server does not offer {name}")
                elif found and not wanted:
                    self.problem(Code.CAPABILITY_NOT_REFUSED, f"the server offers {name}")

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if isinstance(error, Unfinished):
                self.ended_at = self._stage
                self.problem(error.code, error.words, error.severity)
            # Who is stopped by a signal takes leave as well.
            if self.our_turn and (error is None or isinstance(error, (Unfinished, KeyboardInterrupt))):
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
            candidates = self.resolve() if self.candidates is None else self.candidates
            with self.stage(Stage.CONNECT):
                sock, connected = network.connect(candidates, self._deadline, self.remark)
                self.report.address, self.candidates = connected.ip, [connected]
                self.note(f"connected to {connected}")
        self._connected = Stream(sock, self._deadline)
        if self.options.tls == "implicit":
            with self.stage(Stage.TLS):
                self.start_tls()
        self.awaited = "the greeting"

    def resolve(self) -> list[Candidate]:
        """All addresses of the host."""
        options = self.options
        with self.stage(Stage.RESOLVE):
            return network.resolve(
                options.hostname, self.report.port or 0, options.family, self._deadline, options.nameserver
            )

    def _take_leave(self, judge: bool) -> None:
        self.hurry()
        try:
            with self.stage(Stage.QUIT):
                self.farewell()
        except Unfinished as unfinished:
            # A reply too many may show only now; of a conversation that has ended in a finding it is no news.
            if judge and unfinished.code is Code.UNEXPECTED_REPLY:
                self.problem(unfinished.code, unfinished.words, unfinished.severity)
            else:
                self.remark(f"the farewell failed: {unfinished.words}")

    def hurry(self) -> None:
        """Give the farewell a time limit of its own: a short one, and never much behind the run's."""
        # Of several addresses, each has a share of the time: what one took beyond it would be taken from the others.
        self._stream.deadline = Deadline(min(FAREWELL_SECONDS, max(self._deadline.left(), FAREWELL_GRACE)))

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
            spent = time.monotonic() - started
            self.report.timings[stage] = self.report.timings.get(stage, 0.0) + spent

    def problem(self, code: Code, words: str, severity: Severity = Severity.FAILURE) -> None:
        """Note a finding of the present stage and go on."""
        words = printable(words)
        self.report.transcript.append(f"*** {words}")
        self.report.find(code, self._stage, words, severity)

    def expect_text(self, banner: str) -> None:
        """Judge the greeting by the text that it must contain, if there is one."""
        wanted = self.options.expect
        if wanted is not None and wanted not in banner:
            self.problem(Code.GREETING_UNEXPECTED, f"the greeting lacks '{wanted}': {self.quoted(banner)}")

    def channel_binding(self) -> tuple[str, bytes] | None:
        """What ties a login to this TLS session (RFC 5056), and its name; None where Python cannot tell.

        That is `tls-unique` (RFC 5929), which TLS 1.3 does not have; `tls-exporter` (RFC 9266) is not in its ssl.
        """
        session = self._stream.tls
        if session is None or session.version() == "TLSv1.3":
            return None
        data = session.get_channel_binding("tls-unique")
        return ("tls-unique", data) if data else None

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
        tls.describe(sock, session)
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
