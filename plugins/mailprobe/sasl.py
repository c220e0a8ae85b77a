"""SASL mechanisms (RFC 4422), each a few lines, shared by all protocols.

A mechanism is a generator: it yields what the client says, octets before base64, and is sent the server's challenges.
The first value it yields is the initial response, or None when the server has to speak first.
"""

from __future__ import annotations

import hmac
from collections.abc import Generator, Iterable
from typing import Callable, Optional

Exchange = Generator[Optional[bytes], bytes, None]


def _plain(username: str, password: str) -> Exchange:
    """RFC 4616."""
    yield f"\0{username}\0{password}".encode()


def _login(username: str, password: str) -> Exchange:
    """draft-murchison-sasl-login: whatever the prompts say, first the name and then the password."""
    yield None
    yield username.encode()
    yield password.encode()


def _cram_md5(username: str, password: str) -> Exchange:
    """RFC 2195: the keyed MD5 of the challenge. Raises ValueError where Python has no MD5 (FIPS)."""
    challenge = yield None
    digest = hmac.new(password.encode(), challenge, "md5").hexdigest()
    yield f"{username} {digest}".encode()


# The strongest first: CRAM-MD5 does not give the password away.
MECHANISMS: dict[str, Callable[[str, str], Exchange]] = {
    "CRAM-MD5": _cram_md5,
    "PLAIN": _plain,
    "LOGIN": _login,
}


def choose(offered: Iterable[str], wanted: str | None) -> str | None:
    """The strongest mechanism that is offered and known here, or `wanted` if it is offered; else None."""
    names = {name.upper() for name in offered}
    return next((name for name in MECHANISMS if name in names and wanted in (None, name)), None)
