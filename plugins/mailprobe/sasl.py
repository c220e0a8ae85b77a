"""SASL mechanisms (RFC 4422), each a few lines, shared by all protocols.

A mechanism is a generator: it yields what the client says, octets before base64, and is sent the server's challenges.
The first value it yields is the initial response, or None when the server has to speak first. It raises
`ServerFault` when a challenge is none, or when the server cannot prove that it knows the password (SCRAM).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import math
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Callable, Optional

Exchange = Generator[Optional[bytes], bytes, None]

# RFC 5802 9 advises 4096 rounds, servers use up to 600,000. A million cost half a second; the 2^31 that a hostile
# server may ask for would cost a quarter of an hour, which no time limit of a socket stops.
MAX_ROUNDS = 1_000_000
# So many are tried first, to see whether there is time for all: 5 ms. Nothing stops them once they have begun.
TRIAL_ROUNDS = 10_000


# RFC 5802 7, server-error-value: what says that name or password are wrong, and how much of another one is shown.
REFUSALS = frozenset({"invalid-proof", "unknown-user"})
MAX_ERROR = 80


class ServerFault(Exception):
    """What the server said in the exchange is wrong, or `refused` the password; the message says what."""

    def __init__(self, words: str, refused: bool = False) -> None:
        super().__init__(words)
        self.refused = refused


@dataclass(frozen=True)
class Credentials:
    """Who logs in, and with what.

    `binding` is what ties the login to the TLS session, and its name, for the -PLUS mechanisms; None where there is
    none. `plus_offered`: the server has one of those. `host` and `port` are for OAUTHBEARER. `left` tells how many
    seconds there are for computing.
    """

    username: str
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    binding: tuple[str, bytes] | None = field(default=None, repr=False)
    plus_offered: bool = False
    host: str = ""
    port: int | None = None
    left: Callable[[], float] = field(default=lambda: math.inf, repr=False)


def _plain(login: Credentials) -> Exchange:
    """RFC 4616."""
    yield f"\0{login.username}\0{login.password}".encode()


def _login(login: Credentials) -> Exchange:
    """draft-murchison-sasl-login: whatever the prompts say, first the name and then the password."""
    yield None
    yield login.username.encode()
    yield login.password.encode()


def _cram_md5(login: Credentials) -> Exchange:
    """RFC 2195: the keyed MD5 of the challenge. Raises ValueError where Python has no MD5 (FIPS)."""
    challenge = yield None
    digest = hmac.new(login.password.encode(), challenge, "md5").hexdigest()
    yield f"{login.username} {digest}".encode()


def _external(login: Credentials) -> Exchange:
    """RFC 4422 appendix A: who we are is known from TLS (a client certificate); the name is whom to act for."""
    yield login.username.encode()


def _xoauth2(login: Credentials) -> Exchange:
    """Google's and Microsoft's: a refusal comes as a challenge in JSON, to be answered by nothing."""
    refusal = yield f"user={login.username}\x01auth=Bearer {login.token}\x01\x01".encode()
    if refusal:
        yield b""


def _oauthbearer(login: Credentials) -> Exchange:
    """RFC 7628 3.1; a refusal comes as a challenge in JSON, to be answered by a single %x01 (3.2.3)."""
    fields = [f"n,a={_escaped(login.username)},", f"host={login.host}"]
    if login.port is not None:
        fields.append(f"port={login.port}")
    refusal = yield "\x01".join([*fields, f"auth=Bearer {login.token}", "", ""]).encode()
    if refusal:
        yield b"\x01"


def _scram(hash_name: str, plus: bool) -> Callable[[Credentials], Exchange]:
    """RFC 5802 and RFC 7677: neither side gives the password away, and both prove that they know it."""

    def exchange(login: Credentials) -> Exchange:
        channel, data = login.binding if plus and login.binding else ("", b"")
        # RFC 5802 6: "y" is for who could bind and saw no -PLUS, so that a server which has it knows of a man between.
        could = "y,," if login.binding and not login.plus_offered else "n,,"
        header = f"p={channel},," if plus else could
        first = f"n={_escaped(saslprep(login.username))},r={secrets.token_urlsafe(18)}"
        challenge = yield (header + first).encode()
        nonce, salt, rounds = _server_first(challenge, first.rpartition("r=")[2])
        _see_whether_there_is_time(hash_name, rounds, login.left)
        salted = hashlib.pbkdf2_hmac(hash_name, saslprep(login.password).encode(), salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", hash_name)
        without_proof = f"c={b64encode(header.encode() + data).decode()},r={nonce}"
        signed = b",".join([first.encode(), challenge, without_proof.encode()])
        signature = hmac.digest(hashlib.new(hash_name, client_key).digest(), signed, hash_name)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        final = yield f"{without_proof},p={b64encode(proof).decode()}".encode()
        expected = hmac.digest(hmac.digest(salted, b"Server Key", hash_name), signed, hash_name)
        _server_final(final, expected)
        yield b""

    return exchange


def _server_first(challenge: bytes, ours: str) -> tuple[str, bytes, int]:
    """RFC 5802 7: nonce, salt and rounds."""
    found = re.fullmatch(rb"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([0-9]{1,10})(?:,.*)?", challenge, re.DOTALL)
    if found is None:
        raise ServerFault("the SCRAM challenge is malformed")
    nonce, rounds = found[1].decode(), int(found[3])
    if not nonce.startswith(ours) or nonce == ours:
        raise ServerFault("the SCRAM challenge does not carry our nonce and its own")
    if not 1 <= rounds <= MAX_ROUNDS:
        raise ServerFault(f"the server asks for {rounds} SCRAM rounds; {MAX_ROUNDS} are the most that are computed")
    try:
        return nonce, b64decode(found[2], validate=True), rounds
    except binascii.Error:
        raise ServerFault("the SCRAM salt is not base64") from None


def _see_whether_there_is_time(hash_name: str, rounds: int, left: Callable[[], float]) -> None:
    if rounds <= TRIAL_ROUNDS:
        return
    before = left()
    hashlib.pbkdf2_hmac(hash_name, b"password", b"salt", TRIAL_ROUNDS)
    after = left()
    if (before - after) * rounds / TRIAL_ROUNDS > after:
        raise ServerFault(f"the server asks for {rounds} SCRAM rounds, for which the time that is left is not enough")


def _server_final(final: bytes, expected: bytes) -> None:
    if final.startswith(b"e="):
        words = final[2:].decode("ascii", "backslashreplace")[:MAX_ERROR]
        raise ServerFault(f"the server ends SCRAM with {words}", refused=words in REFUSALS)
    try:
        given = b64decode(final[2:].partition(b",")[0], validate=True) if final.startswith(b"v=") else b""
    except binascii.Error:
        given = b""
    if not hmac.compare_digest(given, expected):
        raise ServerFault("the server did not prove that it knows the password (SCRAM server signature)")


def _escaped(name: str) -> str:
    """RFC 5802 5.1 saslname."""
    return name.replace("=", "=3D").replace(",", "=2C")


def saslprep(text: str) -> str:
    """RFC 4013, for stored strings less the check for unassigned code points, which servers differ in.

    Raises ValueError for characters that no user name or password may have.
    """
    if text.isascii() and text.isprintable():
        return text
    import stringprep
    import unicodedata

    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    prohibited = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(table(character) for character in normal for table in prohibited):
        raise ValueError("a character in it is prohibited by SASLprep (RFC 4013)")
    return normal


@dataclass(frozen=True)
class Mechanism:
    """A way to log in, and what it needs to be used: a `password`, a `token`, channel `binding`, or to be asked for by
    `name`. Without an `exchange` it is no SASL but a command of the protocol's own.
    """

    exchange: Callable[[Credentials], Exchange] | None
    needs: str = "password"
    blind: bool = False
    """Whether it does not care what the challenges are, so that they need not be base64, either."""


# The strongest first. EXTERNAL is never guessed: it needs a client certificate, which only the caller knows of.
MECHANISMS: dict[str, Mechanism] = {
    "SCRAM-SHA-256-PLUS": Mechanism(_scram("sha256", plus=True), "binding"),
    "SCRAM-SHA-1-PLUS": Mechanism(_scram("sha1", plus=True), "binding"),
    "SCRAM-SHA-256": Mechanism(_scram("sha256", plus=False)),
    "SCRAM-SHA-1": Mechanism(_scram("sha1", plus=False)),
    "CRAM-MD5": Mechanism(_cram_md5),
    "APOP": Mechanism(None),  # POP3
    "OAUTHBEARER": Mechanism(_oauthbearer, "token"),
    "XOAUTH2": Mechanism(_xoauth2, "token"),
    "PLAIN": Mechanism(_plain),
    "LOGIN": Mechanism(_login, blind=True),
    "USER": Mechanism(None),  # POP3
    "EXTERNAL": Mechanism(_external, "name"),
}


def choose(offered: Iterable[str], wanted: str | None, login: Credentials) -> str | None:
    """The strongest mechanism that is offered and that we have the means for, or `wanted` if offered; else None."""
    names = {name.upper() for name in offered}
    if wanted is not None:
        return wanted if wanted in names else None
    means = {
        "password": bool(login.password),
        "token": bool(login.token),
        "binding": bool(login.password) and login.binding is not None,
        "name": False,
    }
    return next((name for name, known in MECHANISMS.items() if name in names and means[known.needs]), None)
