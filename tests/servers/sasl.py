"""What a client says to log in, written down once more and differently: the probe is not tested against itself."""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Generator
from typing import Optional

from . import Login

# yields what the client says in its turns, first None where the server begins; is sent the server's challenges
Turns = Generator[Optional[bytes], bytes, None]


def client(mechanism: str, login: Login, binding: Optional[bytes] = None) -> Turns:
    """The client's part of a mechanism.

    The password is the token for OAUTHBEARER and XOAUTH2; `binding` is the tls-unique data for SCRAM-*-PLUS. Fails if
    the server does not prove that it knows the password (SCRAM).
    """
    name, password = login
    if mechanism == "PLAIN":
        yield f"\0{name}\0{password}".encode()
    elif mechanism == "LOGIN":
        yield None
        yield name.encode()
        yield password.encode()
    elif mechanism == "CRAM-MD5":
        challenge = yield None
        yield f"{name} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}".encode()
    elif mechanism == "EXTERNAL":
        yield b""
    elif mechanism == "OAUTHBEARER":
        yield f"n,a={name},\1auth=Bearer {password}\1\1".encode()
        yield b"\1"  # after an error
    elif mechanism == "XOAUTH2":
        yield f"user={name}\1auth=Bearer {password}\1\1".encode()
        yield b""  # after an error
    else:
        yield from _scram("sha256" if "256" in mechanism else "sha1", login, binding)


def _scram(digest: str, login: Login, binding: Optional[bytes]) -> Turns:
    header = b"n,," if binding is None else b"p=tls-unique,,"
    first = f"n={login.name},r={os.urandom(9).hex()}".encode()
    challenge = yield header + first
    fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
    salted = hashlib.pbkdf2_hmac(digest, login.password.encode(), b64decode(fields[b"s"]), int(fields[b"i"]))
    final = b"c=" + b64encode(header + (binding or b"")) + b",r=" + fields[b"r"]
    messages = b",".join((first, challenge, final))
    key = hmac.digest(salted, b"Client Key", digest)
    signature = hmac.digest(hashlib.new(digest, key).digest(), messages, digest)
    proof = bytes(left ^ right for left, right in zip(key, signature))
    verifier = yield final + b",p=" + b64encode(proof)
    assert verifier == b"v=" + b64encode(hmac.digest(hmac.digest(salted, b"Server Key", digest), messages, digest))
    yield b""
