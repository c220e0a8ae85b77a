"""The login, the same in all protocols: one mechanism, one try; a second after a refusal could lock the account."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Callable

from .codes import Code, Stage
from .conversation import Conversation, Turn
from .report import Facts, Unfinished
from .sasl import MECHANISMS, Credentials, Exchange, Mechanism, ServerFault, choose
from .text import decoded

# What a server says of a login that it does not accept for good.
REFUSED = frozenset({Code.AUTH_REJECTED, Code.ACCOUNT_EXPIRED})


def log_in(
    conversation: Conversation, facts: Facts, own: Mapping[str, Callable[[Credentials], None]] | None = None
) -> bool:
    """Log in; false when the login had to be refused and was, so that there is nothing more to do.

    `facts.auth_mechanisms` are what the server offers. `own` has the protocol's own ways, by the names they have among
    them. Raises `Unfinished` for every other end.
    """
    options = conversation.options
    with conversation.stage(Stage.AUTH):
        if conversation.login_refused:
            words = "the login was refused at another address, and is not tried again: that could lock the account"
            raise Unfinished(Code.AUTH_REJECTED, words)
        try:
            _try(conversation, facts, own or {})
        except Unfinished as unfinished:
            if options.expect_login_refused and unfinished.code is Code.MAILBOX_IN_USE:
                # RFC 2449 8.1.2: it says that the password was right.
                raise Unfinished(Code.LOGIN_NOT_REFUSED, unfinished.words) from None
            if unfinished.code not in REFUSED:
                raise
            facts.login = "refused"
            if not options.expect_login_refused:
                raise
            conversation.note(f"as expected: {unfinished.words}")
            return False
        facts.login = "accepted"
        if options.expect_login_refused:
            raise Unfinished(Code.LOGIN_NOT_REFUSED, f"the login of {options.username} was accepted")
    return True


def _try(conversation: Conversation, facts: Facts, own: Mapping[str, Callable[[Credentials], None]]) -> None:
    options = conversation.options
    login = Credentials(
        options.username or "",
        options.password or "",
        options.token or "",
        conversation.channel_binding(),
        host=options.hostname,
        port=conversation.report.port,
        left=conversation.seconds_left,
        plus_offered=any(name.endswith("-PLUS") for name in facts.auth_mechanisms),
    )
    if not facts.auth_mechanisms:
        raise Unfinished(Code.AUTH_NOT_OFFERED, "the server offers no login")
    mechanism = choose(facts.auth_mechanisms, options.mechanism, login)
    if mechanism is None:
        offered = conversation.quoted(" ".join(facts.auth_mechanisms))
        wanted = options.mechanism or "one that we know and have the means for"
        raise Unfinished(Code.MECHANISM_NOT_OFFERED, f"the server offers login by {offered}, not by {wanted}")
    facts.mechanism = mechanism
    known = MECHANISMS[mechanism]
    if known.needs == "binding" and login.binding is None:
        words = f"{mechanism} cannot be bound to this connection; Python can up to TLS 1.2 only"
        raise Unfinished(Code.MECHANISM_UNAVAILABLE, words)
    if mechanism in own:
        own[mechanism](login)
    elif known.exchange is not None:
        conversation.guarded = known.needs != "token" and not known.blind
        try:
            _exchange(conversation, mechanism, known.exchange(login), known)
        finally:
            conversation.guarded = False


def _exchange(conversation: Conversation, mechanism: str, exchange: Exchange, known: Mechanism) -> None:
    """RFC 4422 3: challenge and response, until the server has heard enough and we have, too."""
    try:
        initial = next(exchange)
    except ValueError as error:
        raise Unfinished(Code.MECHANISM_UNAVAILABLE, f"{mechanism}: {error}") from None
    try:
        turn = conversation.begin_login(mechanism, initial)
        while not turn.done:
            challenge = b"" if known.blind else _challenge(conversation, turn)
            if known.needs == "token":
                # Of OAuth, a challenge is a refusal that says why, and gives nothing away.
                conversation.note(f"{mechanism}: {decoded(challenge)}")
            response = exchange.send(challenge) or b""
            if not known.blind:
                for text in (decoded(response), decoded(response).rpartition(" ")[2]):  # CRAM-MD5: name and digest
                    conversation.keep_secret(text)
            turn = conversation.continue_login(response)
    except StopIteration:
        raise _broken_off(
            conversation, Code.UNEXPECTED_REPLY, f"{mechanism} is complete, but the server asks on"
        ) from None
    except ServerFault as fault:
        code = Code.AUTH_REJECTED if fault.refused else Code.AUTH_FAULT
        raise _broken_off(conversation, code, f"{mechanism}: {fault}") from None
    except ValueError as error:
        raise _broken_off(conversation, Code.MECHANISM_UNAVAILABLE, f"{mechanism}: {error}") from None
    _complete(conversation, mechanism, exchange, turn)


def _challenge(conversation: Conversation, turn: Turn) -> bytes:
    try:
        return b64decode(turn.challenge.strip(), validate=True)
    except binascii.Error:
        raise ServerFault(f"the challenge is not base64: {conversation.quoted(turn.challenge)}") from None


def _complete(conversation: Conversation, mechanism: str, exchange: Exchange, turn: Turn) -> None:
    """The server is content; are we? It may have accepted before it asked, or without a proof of its own (SCRAM)."""
    try:
        left = exchange.send(_challenge(conversation, turn))
    except StopIteration:
        return
    except (ServerFault, ValueError) as fault:
        raise Unfinished(Code.AUTH_FAULT, f"{mechanism}: {fault}") from None
    if left:
        raise Unfinished(Code.AUTH_FAULT, f"the server accepted the login before {mechanism} was complete")


def _broken_off(conversation: Conversation, code: Code, words: str) -> Unfinished:
    """The finding, after the exchange was broken off as the protocol wants it."""
    try:
        conversation.cancel_login()
    except (Unfinished, OSError):
        conversation.our_turn = False
    return Unfinished(code, words)
