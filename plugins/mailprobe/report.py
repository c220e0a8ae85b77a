"""What a probe found: the one report that every front end reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from .codes import HINTS, STATES, Code, Severity, Stage
from .text import printable


@dataclass(frozen=True)
class Problem:
    """One finding. `message` has the server's own words, cleaned; `hint` says where to look; `chosen` is the state that
    the options gave this code (`--state`), and `address` the one it was found at, where there are several.
    """

    code: Code
    stage: Stage
    message: str
    severity: Severity = Severity.FAILURE
    chosen: str | None = None
    address: str | None = None

    @property
    def hint(self) -> str:
        """Where to look; from the one table of hints."""
        return HINTS[self.code]

    @property
    def state(self) -> str:
        """What it means in monitoring: the state that was chosen, else that of its severity."""
        return self.chosen or self.severity.state

    @property
    def fails(self) -> bool:
        """What it means where there is only yes and no: everything but a flaw, unless another state was chosen."""
        return self.severity is not Severity.FLAW if self.chosen is None else self.chosen in ("critical", "unknown")

    def to_dict(self) -> dict[str, str | None]:
        """The words of a finding as plain strings; `address` is null where there is only one."""
        return {
            "code": self.code.value,
            "stage": self.stage.value,
            "severity": self.severity.value,
            "state": self.state,
            "message": self.message,
            "hint": self.hint,
            "address": self.address,
        }


@dataclass
class Tls:
    """The TLS session. `version` as `TLSv1.3`, `cipher` in OpenSSL's words, `cipher_bits` its strength, `group` that of
    the key exchange (known from Python 3.15 on), `alpn` the application protocol agreed on, `compression` its name (it
    should be None, off), `secure_renegotiation` whether RFC 5746 is in force (None where it cannot be known; true for
    TLS 1.3, which has no renegotiation).

    `verified` is true when chain and name were checked and found good, else `verify_error` may say why not. Of the
    certificates that the server sent, `chain_in_order` tells whether each is followed by its issuer's, `chain_complete`
    whether they lead up to an authority (which itself may be left out, RFC 8446 4.4.2), and `chain_days` are the whole
    days until the first of them expires; None where it is not known.
    """

    version: str | None = None
    cipher: str | None = None
    cipher_bits: int | None = None
    group: str | None = None
    alpn: str | None = None
    compression: str | None = None
    secure_renegotiation: bool | None = None
    verified: bool = False
    verify_error: str | None = None
    chain_complete: bool | None = None
    chain_in_order: bool | None = None
    chain_days: int | None = None


@dataclass
class Certificate:
    """A certificate. Names are RFC 4514 strings, times ISO 8601 in UTC, `names` the subject alternative names (`DNS`
    names, addresses, in the order of the certificate), `days_left` whole days rounded down, negative when it expired,
    `lifetime_percent` what is left of its lifetime. `serial` and `fingerprint_sha256` are upper-case hexadecimal, the
    latter with colons, as OpenSSL prints them. What is not known is None.
    """

    subject: str | None = None
    issuer: str | None = None
    names: list[str] = field(default_factory=list)
    serial: str | None = None
    fingerprint_sha256: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    days_left: int | None = None
    lifetime_percent: float | None = None
    key_type: str | None = None
    key_bits: int | None = None
    signature_algorithm: str | None = None
    self_signed: bool | None = None


@dataclass
class Facts:
    """What servers of all protocols tell; each protocol adds its own. Plain values and lists, neutral where unknown.

    `banner` is the greeting without its code, `capabilities` are the lines of the last reply that listed them,
    `mechanism` is the one of our login, and `login` is `accepted` or `refused`.
    """

    banner: str | None = None
    capabilities: list[str] = field(default_factory=list)
    auth_mechanisms: list[str] = field(default_factory=list)
    mechanism: str | None = None
    login: str | None = None


F = TypeVar("F", bound=Facts)


class Unfinished(Exception):
    """Ends a conversation when there is no going on: the finding that says why. Never leaves the core."""

    def __init__(self, code: Code, words: str, severity: Severity = Severity.FAILURE) -> None:
        super().__init__(code, words)
        self.code = code
        self.words = words
        self.severity = severity


@dataclass
class Report(Generic[F]):
    """All that one run of a probe found; filled as the conversation proceeds, so that it is worth reading whenever it
    ends. Times are seconds. `port` is None for a Unix socket, `address` the IP address that was talked to, `chain` the
    certificates that the server sent, its own first.

    When all addresses of a name were asked, `addresses` has the report of each, and the report itself tells of the
    worst one, and the problems of all.
    """

    protocol: str
    host: str
    port: int | None
    facts: F
    states: Mapping[Code, str] = field(default_factory=dict)
    address: str | None = None
    elapsed: float = 0.0
    timings: dict[Stage, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tls: Tls = field(default_factory=Tls)
    certificate: Certificate = field(default_factory=Certificate)
    chain: list[Certificate] = field(default_factory=list)
    addresses: list[Report[F]] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The place as people write it: `mx.example.org:25`, `[2001:db8::1]:25`, `/run/lmtp`."""
        host = f"[{self.host}]" if ":" in self.host and self.host[:1] not in "[/" else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def state(self) -> str:
        """The verdict of all front ends, thresholds apart: `ok`, `warning`, `critical`, or, if chosen, `unknown`."""
        states = {problem.state for problem in self.problems}
        return next((state for state in STATES if state in states), "ok")

    def find(self, code: Code, stage: Stage, message: str, severity: Severity = Severity.FAILURE) -> None:
        """Note a finding, with the state that was chosen for it."""
        self.problems.append(Problem(code, stage, message, severity, self.states.get(code)))

    def blank(self) -> Report[F]:
        """A report of the same place with nothing in it, for another connection."""
        return Report(self.protocol, self.host, self.port, type(self.facts)(), self.states)

    def gather(self) -> None:
        """Tell of the worst of `addresses`, and the problems of all of them."""
        worst = min(self.addresses, key=lambda part: STATES.index(part.state))
        for name in ("facts", "address", "tls", "certificate", "chain"):
            setattr(self, name, getattr(worst, name))
        self.timings.update(worst.timings)
        for part in self.addresses:
            self.problems += [replace(problem, address=part.address) for problem in part.problems]
            self.notes += [f"{part.address}: {note}" for note in part.notes]
            self.transcript += [f"=== address {part.address}", *part.transcript]

    def clean(self, blot: Callable[[str], str]) -> None:
        """Make everything that may hold a server's words inert, and blot the secrets out of it; what the caller gave is
        left as it is.
        """
        for name in ("facts", "problems", "notes", "tls", "certificate", "chain"):
            setattr(self, name, _through(blot, getattr(self, name)))
        # Inert line by line already; as one text, because a server may spread a secret over several lines.
        self.transcript = blot("\n".join(self.transcript)).split("\n") if self.transcript else []
        for part in self.addresses:
            part.clean(blot)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain JSON types; every key is always there, null, false or empty where unknown."""
        return {
            "protocol": self.protocol,
            "host": self.host,
            "port": self.port,
            **self._found(),
            "notes": list(self.notes),
            "addresses": [{"state": part.state, **part._found()} for part in self.addresses],
            "transcript": list(self.transcript),
        }

    def _found(self) -> dict[str, Any]:
        """What each address has of its own."""
        return {
            "address": self.address,
            "elapsed": round(self.elapsed, 6),
            "timings": {stage.value: _rounded(self.timings.get(stage)) for stage in Stage},
            "problems": [problem.to_dict() for problem in self.problems],
            "tls": _plain(self.tls),
            "certificate": _plain(self.certificate),
            "chain": _plain(self.chain),
            "facts": _plain(self.facts),
        }


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, lists as lists of their own; `asdict()` does the same in three times the time."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {name: _plain(item) for name, item in vars(value).items()}
    return value


def _through(blot: Callable[[str], str], value: Any) -> Any:
    if value is None or isinstance(value, (int, float, Enum)):
        return value
    if isinstance(value, str):
        return printable(blot(value))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        # As one text, because a server may spread a secret over several of its words.
        return [printable(item) for item in blot("\n".join(value)).split("\n")] if value else []
    if isinstance(value, list):
        return [_through(blot, item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        cleaned = {name: _through(blot, item) for name, item in vars(value).items()}
        return value if cleaned == vars(value) else replace(value, **cleaned)
    return value


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
