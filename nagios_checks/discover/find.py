"""Find the mail services of a domain: ask DNS, then hold a conversation with whatever may be there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mailprobe import batch
from mailprobe.codes import Code
from mailprobe.lookup import Resolver, addresses, mail_exchangers, services
from mailprobe.network import Deadline
from mailprobe.options import UsageError, read
from mailprobe.report import Report, Unfinished
from mailprobe.text import printable

from ..report.registry import PROTOCOLS


@dataclass(frozen=True)
class Kind:
    """A service that mail hosts have: its word, protocol, well-known port, and whether TLS begins at once."""

    word: str
    protocol: str
    port: int
    implicit: bool = False


KINDS = {
    kind.word: kind
    for kind in (
        Kind("smtp", "smtp", 25),
        Kind("submission", "smtp", 587),
        Kind("submissions", "smtp", 465, implicit=True),
        Kind("imap", "imap", 143),
        Kind("imaps", "imap", 993, implicit=True),
        Kind("pop3", "pop3", 110),
        Kind("pop3s", "pop3", 995, implicit=True),
        Kind("sieve", "sieve", 4190),
    )
}
# RFC 6186, RFC 8314 5.1, RFC 5804 1.8: every kind but the first, which MX is for.
SRV = tuple(word for word in KINDS if word != "smtp")
# Where mail clients look when nobody tells them, and what people call such hosts.
USUAL_NAMES = ("mail", "smtp", "imap", "pop", "pop3", "sieve")
# A domain with more is one of a mail service provider's, who knows its hosts.
MAX_HOSTS = 20
# What one conversation may take, however much time there is: a firewall that drops must not use up all of it.
PROBE_SECONDS = 8.0
WORKERS = 64
PER_HOST = 4

# What shows that nobody is there, or nobody whom we can reach.
SILENT = frozenset(
    {
        Code.CONNECTION_REFUSED,
        Code.CONNECTION_CLOSED,
        Code.CONNECTION_RESET,
        Code.NO_ROUTE,
        Code.TIMEOUT,
        Code.NAME_UNKNOWN,
        Code.NO_ADDRESS,
        Code.RESOLVER_FAILED,
    }
)


@dataclass(frozen=True)
class Candidate:
    """A service that may be there. `reason` is the record that names it, empty when only its port is well known."""

    kind: Kind
    host: str
    port: int
    reason: str = ""


@dataclass
class Found:
    """A service for the file: how TLS begins there, None where that could not be seen, and what is wrong with it just
    now.
    """

    candidate: Candidate
    tls: str | None
    answers: bool
    banner: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass
class Discovery:
    """What there is of a domain, and what is worth a remark."""

    domain: str
    found: list[Found] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def discover(domain: str, nameserver: str | None, seconds: float, ports: Mapping[str, int] | None = None) -> Discovery:
    """Find out, within so many seconds in all. `ports` are where the kinds are looked for, by their words.

    Raises `Unfinished` when DNS knows nothing of the domain, `UsageError` for a name server that is none.
    """
    deadline = Deadline(seconds)
    discovery = Discovery(domain)
    known = ports or {word: kind.port for word, kind in KINDS.items()}
    resolver = Resolver(nameserver, deadline)
    records = (*_exchangers(domain, resolver, known, discovery), *_named_services(domain, resolver, discovery))
    named = list(_with_names(records, discovery))
    hosts = _hosts(domain, named, resolver, discovery)
    usual = [Candidate(KINDS[word], host, port) for host in hosts for word, port in known.items()]
    candidates: dict[tuple[str, str, int], Candidate] = {}
    for candidate in (*named, *usual):
        candidates.setdefault((candidate.kind.word, candidate.host, candidate.port), candidate)
    jobs = [
        batch.Job(candidate.host, partial(_look, candidate, nameserver, deadline)) for candidate in candidates.values()
    ]
    left = max(0.0, deadline.left())
    ended = {done.place: done for done in batch.run(jobs, workers=WORKERS, per_key=PER_HOST, seconds=left)}
    for place, candidate in enumerate(candidates.values()):
        error = ended[place].error
        if isinstance(error, UsageError):  # a name that DNS can hold and nobody can connect to
            if candidate.reason:
                discovery.remarks.append(f"{candidate.reason}: {error}")
            continue
        if error is not None:
            raise error
        found = ended[place].value or _silent(candidate)
        if found.answers or candidate.reason:
            discovery.found.append(found)
    return discovery


# DNS.


def _exchangers(domain: str, resolver: Resolver, ports: Mapping[str, int], discovery: Discovery) -> Iterator[Candidate]:
    found = mail_exchangers(domain, resolver)
    for service in found:
        yield Candidate(KINDS["smtp"], service.host.lower(), ports["smtp"], f"MX {service.priority}")
    if found:
        return
    if resolver.ask(domain.encode("idna").decode(), "MX"):
        discovery.remarks.append(f"{domain} takes no mail: it has a null MX (RFC 7505)")
    elif _addresses(domain, resolver):
        yield Candidate(KINDS["smtp"], domain, ports["smtp"], "the domain itself, since it has no MX")
        discovery.remarks.append(f"{domain} has no MX: mail goes to its own address (RFC 5321 5.1)")


def _named_services(domain: str, resolver: Resolver, discovery: Discovery) -> Iterator[Candidate]:
    """What SRV records name; a question that is not answered is a remark."""
    jobs = [batch.Job("dns", partial(services, f"_{word}._tcp", domain, resolver)) for word in SRV]
    for done in sorted(batch.run(jobs, workers=len(SRV), per_key=len(SRV)), key=lambda done: done.place):
        word = SRV[done.place]
        if isinstance(done.error, Unfinished):
            discovery.remarks.append(f"SRV _{word}._tcp: {done.error.words}")
        elif isinstance(done.error, OSError):  # out of time
            discovery.remarks.append(f"SRV _{word}._tcp: not asked: {done.error}")
        elif done.error is not None:
            raise done.error
        for service in done.value or ():
            yield Candidate(KINDS[word], service.host.lower(), service.port or KINDS[word].port, f"SRV _{word}._tcp")


def _with_names(candidates: Iterable[Candidate], discovery: Discovery) -> Iterator[Candidate]:
    """Those whose record names a host. A check of an address in its place would be OK where no mail arrives."""
    for candidate in candidates:
        if is_address(candidate.host):
            discovery.remarks.append(
                f"{candidate.reason} names the address {candidate.host}, where only a name may be (RFC 5321 5.1,"
                " RFC 2782): many find nobody there"
            )
        else:
            yield candidate


def _hosts(domain: str, named: Iterable[Candidate], resolver: Resolver, discovery: Discovery) -> list[str]:
    """The hosts whose well-known ports are tried: those that are named, the domain, and what such hosts are called.

    A usual name for a host that is among them already says nothing new.
    """
    certain = list(dict.fromkeys([candidate.host for candidate in named]))
    if len(certain) > MAX_HOSTS:
        discovery.remarks.append(f"only the ports of {MAX_HOSTS} of {len(certain)} hosts were tried")
        certain = certain[:MAX_HOSTS]
    usual = [name for name in (domain, *(f"{name}.{domain}" for name in USUAL_NAMES)) if name not in certain]
    jobs = [batch.Job("dns", partial(_addresses, name, resolver)) for name in (*certain, *usual)]
    ended = {done.place: done.value or [] for done in batch.run(jobs, workers=8, per_key=8)}
    seen = {address for place in range(len(certain)) for address in ended[place]}
    hosts = list(certain)
    for place, name in enumerate(usual, start=len(certain)):
        if not seen.issuperset(ended[place]):
            hosts.append(name)
            seen.update(ended[place])
    return hosts


def _addresses(host: str, resolver: Resolver) -> list[str]:
    try:
        return addresses(host, "any", resolver)
    except (Unfinished, OSError):
        return []


def is_address(text: str) -> bool:
    """Whether it is an IP address, which has no MX."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


# The conversation.


def _look(candidate: Candidate, nameserver: str | None, deadline: Deadline) -> Found:
    """Talk to it: once in the clear to see whether TLS is offered, and once with TLS if it is."""
    if candidate.kind.implicit:
        return _seen(candidate, "implicit", _talk(candidate, "implicit", nameserver, deadline))
    report = _talk(candidate, "none", nameserver, deadline)
    if not any(line.upper().split()[:1] in (["STARTTLS"], ["STLS"]) for line in _words(report)):
        # Who was refused has not heard what is offered to others.
        told = report.facts.capabilities or not report.problems
        return _seen(candidate, "none" if told else None, report)
    first = _seen(candidate, "starttls", report)
    if deadline.left() <= 0:
        return first
    second = _seen(candidate, "starttls", _talk(candidate, "starttls", nameserver, deadline))
    return replace(first, problems=second.problems)  # somebody is there, even if he has had enough of us


def _words(report: Report[Any]) -> Iterator[str]:
    """The capabilities: a line each in SMTP and POP3, words of one line in IMAP."""
    for line in report.facts.capabilities:
        yield line
        yield from line.split()


def _talk(candidate: Candidate, mode: str, nameserver: str | None, deadline: Deadline) -> Report[Any]:
    spec = PROTOCOLS[candidate.kind.protocol]
    values: dict[str, Any] = {
        "host": candidate.host,
        "port": candidate.port,
        "tls": mode,
        "timeout": max(0.1, min(PROBE_SECONDS, deadline.left())),
        "nameserver": nameserver,
    }
    return spec.probe(read(spec.options, values))


def _seen(candidate: Candidate, mode: str | None, report: Report[Any]) -> Found:
    problems = [f"{problem.message} [{problem.code.value}]" for problem in report.problems]
    # With a banner, a wrong certificate, a refusal, somebody is there.
    silent = report.facts.banner is None and any(problem.code in SILENT for problem in report.problems)
    answers = not silent and not any(problem.code is Code.WRONG_PROTOCOL for problem in report.problems)
    return Found(candidate, mode, answers, report.facts.banner or "", problems)


def _silent(candidate: Candidate) -> Found:
    """One that the time did not suffice for."""
    return Found(candidate, "implicit" if candidate.kind.implicit else None, False, problems=["no time was left"])


def checked_domain(text: str) -> str:
    """A domain as DNS has it. Raises `UsageError`."""
    domain = text.rstrip(".").lower()
    if is_address(domain) or "/" in domain:
        raise UsageError("domain", f"'{printable(text, limit=80)}' is not a domain")
    read(PROTOCOLS["smtp"].options, {"host": domain})
    return domain.encode("idna").decode()
