"""Questions to DNS itself, for names that the system's resolver must not answer; the only importer of dnspython."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codes import Code
from .families import split_nameserver
from .options import MissingPackage
from .report import Unfinished

if TYPE_CHECKING:
    from .network import Deadline

RECORD_TYPES = {"ipv6": ("AAAA",), "ipv4": ("A",), "any": ("AAAA", "A")}
# A name with more is nobody's mail host.
MAX_ANSWERS = 50


def require_dnspython(option: str) -> None:
    """Raise `MissingPackage` for the option that needs dnspython where it is not installed."""
    try:
        import dns.resolver  # noqa: F401
    except ImportError:
        raise MissingPackage(option, "dnspython") from None


class Resolver:
    """Asks one name server (`ADDRESS[:PORT]`), or the system's when None, within a deadline."""

    def __init__(self, nameserver: str | None, deadline: Deadline) -> None:
        import dns.exception
        import dns.resolver

        self._deadline = deadline
        self.name = nameserver or "the system's name servers"
        try:
            self._resolver = dns.resolver.Resolver(configure=nameserver is None)
        except dns.exception.DNSException as error:  # there is no /etc/resolv.conf, or nothing in it
            raise Unfinished(Code.RESOLVER_FAILED, f"no name server is known: {error}") from None
        if nameserver is not None:
            address, self._resolver.port = split_nameserver(nameserver)
            self._resolver.nameservers = [address]
        # What is asked is complete already: no search list.
        self._resolver.search = []

    def ask(self, name: str, kind: str) -> list[Any]:
        """The records of one kind, empty when the name has none. Raises `Unfinished`, also when there is no name."""
        import dns.exception
        import dns.resolver

        try:
            answer = self._resolver.resolve(
                name, kind, lifetime=self._deadline.remaining(), raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN:
            raise Unfinished(Code.NAME_UNKNOWN, f"no such name: {name} ({self.name})") from None
        except (dns.exception.Timeout, socket.timeout):
            raise Unfinished(Code.RESOLVER_FAILED, f"no answer from {self.name} to the question for {name}") from None
        except dns.exception.DNSException as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise Unfinished(Code.RESOLVER_FAILED, f"{self.name} could not answer for {name}: {words}") from None
        return list(answer.rrset or ())[:MAX_ANSWERS]


def addresses(host: str, family: str, resolver: Resolver) -> list[str]:
    """The addresses of a host, those of IPv6 first. Raises `Unfinished`, also when there are none."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError:  # reverse DNS may give any octets
        raise Unfinished(Code.NAME_UNKNOWN, f"no name that a host can have: {host}") from None
    found = [record.address for kind in RECORD_TYPES[family] for record in resolver.ask(name, kind)]
    if not found:
        kind = {"any": "address", "ipv4": "IPv4 address", "ipv6": "IPv6 address"}[family]
        raise Unfinished(Code.NO_ADDRESS, f"{host} has no {kind} ({resolver.name})")
    return found


def names(address: str, resolver: Resolver) -> list[str]:
    """The names that reverse DNS gives an address (PTR, RFC 1035 3.5), without the last dot; empty for none."""
    pointer = ipaddress.ip_address(address.partition("%")[0]).reverse_pointer
    try:
        return _plain(record.target for record in resolver.ask(pointer, "PTR"))
    except Unfinished as unfinished:
        if unfinished.code is Code.NAME_UNKNOWN:
            return []
        raise


@dataclass(frozen=True)
class Service:
    """A host that a record names for a service. `priority`: the lowest comes first; `port` is None for MX."""

    host: str
    priority: int
    port: int | None = None


def mail_exchangers(domain: str, resolver: Resolver) -> list[Service]:
    """The MX records of a domain (RFC 5321 5.1), the best first; a null MX (RFC 7505) is none."""
    records = resolver.ask(domain.encode("idna").decode(), "MX")
    return _sorted(Service(_plain([record.exchange])[0], record.preference) for record in records)


def services(name: str, domain: str, resolver: Resolver) -> list[Service]:
    """The SRV records of a service such as `_imaps._tcp` (RFC 6186, 8314, 5804), the best first; empty for none."""
    try:
        records = resolver.ask(f"{name}.{domain.encode('idna').decode()}", "SRV")
    except Unfinished as unfinished:
        if unfinished.code is Code.NAME_UNKNOWN:
            return []
        raise
    return _sorted(Service(_plain([record.target])[0], record.priority, record.port) for record in records)


def _sorted(found: Iterable[Service]) -> list[Service]:
    return sorted((each for each in found if each.host), key=lambda each: each.priority)


def _plain(targets: Iterable[Any]) -> list[str]:
    return [target.to_text(omit_final_dot=True) if str(target) != "." else "" for target in targets]
