"""From a name to a connected socket, inside one deadline; and what the network's errors mean."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Callable

from . import lookup, tls
from .codes import Code
from .report import Unfinished

FAMILIES = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
# A name with more addresses than this is tried no further; the report would be unreadable.
MAX_ADDRESSES = 16

# What the resolver's answers mean (RFC 3493 6.1; EAI_NODATA and EAI_ADDRFAMILY are glibc's and not everywhere).
_NO_ADDRESS = {getattr(socket, name) for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)}

# What this host lacks is no finding about the server; everything else that a connection can fail with is.
_OUR_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBADF, errno.EFAULT}
# How long to wait before a full queue of a Unix socket is tried again.
_QUEUE_SECONDS = 0.05


class Deadline:
    """The one time limit of a run; asked anew before every read and write, so that no dripping server stretches it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, negative when it has passed."""
        return self._end - time.monotonic()

    def remaining(self) -> float:
        """Seconds left for the next step; raises `socket.timeout` when there are none."""
        left = self.left()
        if left <= 0:
            # TimeoutError is what it is called from Python 3.10 on, but on 3.9 the two are different.
            raise socket.timeout("the time limit has passed")
        return left


class Candidate:
    """One address to try, as `getaddrinfo` gave it."""

    def __init__(self, family: int, sockaddr: Any) -> None:
        self.family = family
        self.sockaddr = sockaddr

    @property
    def ip(self) -> str:
        """The IP address as text, of a link-local one with its zone (RFC 4007 11)."""
        ip = str(self.sockaddr[0])
        scope = self.sockaddr[3] if len(self.sockaddr) > 3 else 0
        return ip if not scope or "%" in ip else f"{ip}%{scope}"

    def __str__(self) -> str:
        return f"{self.ip} port {self.sockaddr[1]}"


def resolve(host: str, port: int, family: str, deadline: Deadline, nameserver: str | None = None) -> list[Candidate]:
    """All addresses of `host`, in the order of the system's resolver (RFC 6724), or as the name server gives them.

    Raises `Unfinished`.
    """
    try:
        found = _numeric(host, port, family)
    except socket.gaierror:
        if nameserver is None or host.rstrip(".").lower() == "localhost":  # RFC 6761 6.3: that is no matter for DNS
            found = _look_up(host, port, family, deadline)
        else:
            found = [
                answer
                for address in lookup.addresses(host, family, lookup.Resolver(nameserver, deadline))
                for answer in _numeric(address, port, family)
            ]
    return [Candidate(answer[0], answer[4]) for answer in found[:MAX_ADDRESSES]]


def _numeric(host: str, port: int, family: str) -> list[Any]:
    return socket.getaddrinfo(host, port, FAMILIES[family], socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


def _look_up(host: str, port: int, family: str, deadline: Deadline) -> list[Any]:
    """`getaddrinfo` in a thread of its own, since it knows no time limit."""
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, FAMILIES[family], socket.SOCK_STREAM))
        except socket.gaierror as error:
            answers.put(error if family == "any" or error.errno != socket.EAI_NONAME else _other_family(host, error))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.remaining())
    except Empty:
        raise Unfinished(
            Code.RESOLVER_FAILED, f"no answer from the resolver to the question for {host} in {deadline.seconds:g} s"
        ) from None
    if isinstance(answer, socket.gaierror):
        raise _unresolved(answer, host, family)
    if isinstance(answer, Exception):
        raise answer
    found: list[Any] = answer
    return found


def _other_family(host: str, error: socket.gaierror) -> Exception:
    """Of a name that is only in /etc/hosts, the resolver does not say that it has addresses of the other family."""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return error
    return socket.gaierror(next(iter(_NO_ADDRESS), error.errno), "it has addresses of another family only")


def _unresolved(error: socket.gaierror, host: str, family: str) -> Unfinished:
    if error.errno in _NO_ADDRESS:
        kind = {"any": "address", "ipv4": "IPv4 address", "ipv6": "IPv6 address"}[family]
        return Unfinished(Code.NO_ADDRESS, f"{host} has no {kind}: {error.strerror}")
    if error.errno == socket.EAI_NONAME:
        return Unfinished(Code.NAME_UNKNOWN, f"no such name: {host} ({error.strerror})")
    return Unfinished(Code.RESOLVER_FAILED, f"the resolver could not answer for {host}: {error.strerror}")


def connect(
    candidates: list[Candidate], deadline: Deadline, remark: Callable[[str], None]
) -> tuple[socket.socket, Candidate]:
    """The first address that accepts, as a socket and the address; each gets a fair share of the time that is left.

    `remark` hears of those that did not. Raises `Unfinished` with what all of them said.
    """
    failures: list[Unfinished] = []
    for place, candidate in enumerate(candidates):
        share = deadline.remaining() / (len(candidates) - place)
        try:
            sock = _open(candidate.family, candidate.sockaddr, share)
        except OSError as error:
            failures.append(_unconnected(error, candidate, share))
        else:
            for failure in failures:
                remark(failure.words)
            return sock, candidate
    # A family that this host has no route for tells less than what the other one said.
    telling = next((failure for failure in failures if failure.code is not Code.NO_ROUTE), failures[0])
    raise Unfinished(telling.code, "; ".join(dict.fromkeys(failure.words for failure in failures)))


def connect_unix(path: str, deadline: Deadline) -> socket.socket:
    """A socket connected to the Unix socket `path`. Raises `Unfinished`."""
    while True:
        try:
            return _open(socket.AF_UNIX, path, deadline.remaining())
        except PermissionError as error:
            raise Unfinished(Code.SOCKET_DENIED, f"{path}: {error.strerror}") from None
        except ConnectionRefusedError:
            raise Unfinished(Code.CONNECTION_REFUSED, f"connection refused: nobody listens on {path}") from None
        except BlockingIOError:
            # connect(2): the backlog of the listener is full, and a socket with a time limit does not block on that.
            time.sleep(_QUEUE_SECONDS)
        except OSError as error:
            if isinstance(error, socket.timeout) or error.errno in _OUR_OWN:
                raise
            raise Unfinished(Code.SOCKET_MISSING, f"{path}: {error.strerror}") from None


def _open(family: int, sockaddr: Any, seconds: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _unconnected(error: OSError, candidate: Candidate, seconds: float) -> Unfinished:
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:
        return Unfinished(Code.TIMEOUT, f"no answer from {candidate} in {seconds:.3g} s")
    if isinstance(error, ConnectionRefusedError):
        return Unfinished(Code.CONNECTION_REFUSED, f"connection refused by {candidate}")
    if isinstance(error, ConnectionResetError):
        return Unfinished(Code.CONNECTION_RESET, f"connection reset by {candidate} at once")
    if error.errno in _OUR_OWN:
        raise error
    return Unfinished(Code.NO_ROUTE, f"no route to {candidate}: {error.strerror}")


def explain(error: OSError, awaited: str, deadline: Deadline) -> Unfinished:
    """What an error in mid-conversation means, `awaited` being what we waited for. Raises what is our own trouble."""
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:
        return Unfinished(Code.TIMEOUT, f"no answer in {deadline.seconds:g} s, waiting for {awaited}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unfinished(tls.fault(error), f"certificate not accepted: {tls.reason(error)}")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Unfinished(Code.CONNECTION_CLOSED, f"the server closed the connection, waiting for {awaited}")
    if isinstance(error, ssl.SSLError):
        return Unfinished(Code.TLS_FAILED, f"TLS broke, waiting for {awaited}: {tls.reason(error)}")
    if isinstance(error, ConnectionResetError):
        return Unfinished(Code.CONNECTION_RESET, f"the connection was reset, waiting for {awaited}")
    if isinstance(error, (BrokenPipeError, ConnectionAbortedError)):
        return Unfinished(Code.CONNECTION_CLOSED, f"the server closed the connection, waiting for {awaited}")
    if error.errno is None or error.errno in _OUR_OWN:
        raise error
    return Unfinished(Code.NO_ROUTE, f"the way to the server broke off, waiting for {awaited}: {error.strerror}")
