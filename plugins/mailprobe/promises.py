"""What must be refused, and is tried with a connection of its own; a promise that was not tried is not kept."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from .codes import Code, Severity, Stage
from .families import PromiseOptions
from .report import Problem, Unfinished

# How a server refuses a handshake: by an alert, or by hanging up.
_NO_HANDSHAKE = frozenset({Code.TLS_HANDSHAKE_FAILED, Code.CONNECTION_CLOSED, Code.CONNECTION_RESET})
# How it refuses a command behind STARTTLS: it may also refuse STARTTLS, or answer both in clear.
_NO_INJECTION = frozenset(
    {*_NO_HANDSHAKE, Code.STARTTLS_REFUSED, Code.STARTTLS_INJECTION, Code.UNEXPECTED_REPLY, Code.MALFORMED_REPLY}
)
# What a reply that belongs to no command is called.
UNPAIRED = frozenset({Code.UNEXPECTED_REPLY, Code.MALFORMED_REPLY})
# How it refuses to begin a login.
_NO_LOGIN = frozenset(
    {
        *(Code.AUTH_REJECTED, Code.AUTH_FAILED, Code.AUTH_NOT_OFFERED, Code.MECHANISM_NOT_OFFERED),
        *(Code.UNEXPECTED_REPLY, Code.CONNECTION_CLOSED, Code.CONNECTION_RESET),
    }
)


@dataclass(frozen=True)
class Promise:
    """Something that a server must refuse. `attempt` tries it with a conversation that has not begun, and adds to the
    list what the server did instead; it may raise `Unfinished` and go on in neither case. At `stage`, a finding among
    `refusals` is the refusal that was wanted.
    """

    code: Code
    aim: str
    """What the connection is for, such as `to see whether TLSv1 is refused`."""
    stage: Stage
    attempt: Callable[[Any, list[str]], None]
    refusals: frozenset[Code]
    context: ssl.SSLContext | None = None
    needs_tls: bool = False
    """Whether it means nothing for a server with which there was no TLS."""
    needs_login: bool = False
    """Whether it is tried behind a login: one that was refused is not tried again, which could lock the account."""

    def is_refusal(self, problem: Problem) -> bool:
        """Whether the finding is the refusal that was wanted."""
        lasting = problem.severity is not Severity.TEMPORARY
        return lasting and problem.stage is self.stage and problem.code in self.refusals


def of_all(options: PromiseOptions) -> Iterator[Promise]:
    """The promises that all protocols have."""
    if options.refuse_plaintext_login:
        yield Promise(
            Code.PLAINTEXT_LOGIN_NOT_REFUSED,
            "to see whether a login without TLS is refused",
            Stage.AUTH,
            _begin_plaintext_login,
            _NO_LOGIN,
        )
    for version in options.refuse_tls:
        yield Promise(
            Code.TLS_NOT_REFUSED,
            f"to see whether {version} is refused",
            Stage.TLS,
            _shake_hands,
            _NO_HANDSHAKE,
            options.contexts.only(options, version),
            needs_tls=True,
        )
    if options.refuse_starttls_injection:
        yield Promise(
            Code.INJECTION_NOT_REFUSED,
            "to see whether a command behind STARTTLS is refused",
            Stage.TLS,
            _inject,
            _NO_INJECTION,
            options.contexts.client(options, verify=False),
            needs_tls=True,
        )


def _begin_plaintext_login(conversation: Any, broken: list[str]) -> None:
    """Begin logins, and break them off before a name or a password; the offer alone has been judged already."""
    conversation.arrive()
    if conversation.offered_logins:
        return
    with conversation.stage(Stage.AUTH):
        for mechanism in conversation.plaintext_logins:
            try:
                turn = conversation.begin_login(mechanism, None)
            except Unfinished as unfinished:
                if unfinished.code not in _NO_LOGIN or not conversation.our_turn:
                    raise
                continue
            broken.append(f"a login by {mechanism} is accepted without TLS")
            if not turn.done:
                conversation.cancel_login()
            return


def _shake_hands(conversation: Any, broken: list[str]) -> None:
    if conversation.options.tls == "implicit":
        conversation.connect()
    else:
        conversation.arrive()
        with conversation.stage(Stage.TLS):
            conversation.ask_starttls()
            conversation.start_tls()
    broken.append(f"a handshake with {conversation.report.tls.version} succeeds ({conversation.report.tls.cipher})")
    if conversation.options.tls == "implicit":
        with conversation.stage(Stage.GREETING):
            conversation.greet()  # so that we may take leave


def _inject(conversation: Any, broken: list[str]) -> None:
    """Say a command in the same packet behind STARTTLS; inside TLS there must be no answer to it.

    There are exactly as many replies as commands, up to the end of the connection: an answer too many is the proof, and
    no time is spent on waiting for one that does not come.
    """
    conversation.arrive()
    with conversation.stage(Stage.TLS):
        conversation.ask_starttls(conversation.harmless_command)
        conversation.start_tls()
    try:
        with conversation.stage(Stage.CAPABILITIES):
            conversation.ask_capabilities()
        with conversation.stage(Stage.QUIT):
            _hear_out(conversation)
    except Unfinished as unfinished:
        if unfinished.code not in UNPAIRED:
            raise
        command = conversation.harmless_command
        broken.append(f"{command}, sent in clear behind STARTTLS, is answered inside TLS: {unfinished.words}")
        conversation.our_turn = False


def _hear_out(conversation: Any) -> None:
    """Take leave, and hear up to the end whether there is a reply too many; one too few is no matter here."""
    conversation.hurry()
    try:
        conversation.farewell()
    except OSError:
        return
    except Unfinished as unfinished:
        if unfinished.code not in UNPAIRED:
            return
        if not conversation.our_turn:
            raise
        # An odd reply, and there may be servers who always say that.
    finally:
        answered, conversation.our_turn = conversation.our_turn, False
    if answered:
        conversation.hear_the_end()
