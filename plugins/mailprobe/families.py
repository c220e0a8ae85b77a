"""The families of options that all protocols share: where to connect, TLS, the login, what must not work."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from .codes import STATES, Code
from .options import Options, UsageError, declarations, nearest, option, shown
from .sasl import MECHANISMS

if TYPE_CHECKING:
    from .tls import Contexts

TLS_MODES = ("none", "starttls", "implicit")
FAMILIES = ("any", "ipv4", "ipv6")
# As Python and OpenSSL spell them.
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# RFC 8996: older ones must not be used.
USUAL_TLS_MIN = "TLSv1.2"
NEED_TLS = (
    *("ca_file", "ca_path", "client_cert", "client_key", "tls_server_name"),
    *("tls_min", "tls_max", "ciphers", "alpn"),
)
# What means nothing in a mode of TLS: a mistake where it was asked for, and left out where it only applies to many.
MEANINGLESS = {
    "none": (*NEED_TLS, "refuse_tls", "refuse_starttls_injection"),
    "starttls": (),
    "implicit": ("refuse_starttls_injection", "refuse_plaintext_login"),
}


@dataclass(frozen=True)
class ConnectOptions(Options):
    """Where to connect, and how long everything may take."""

    host: str = option("Host name, IP address, or the path of a Unix socket (it begins with a slash).", metavar="HOST")
    port: int | None = option(
        "Port; by default the well-known one for the protocol and {tls}.", default=None, minimum=1, maximum=65535
    )
    family: str = option("Use only addresses of this family.", default="any", choices=FAMILIES)
    timeout: float = option(
        "Seconds for the whole run, from the look-up of the name to the farewell.",
        default=10.0,
        minimum=0.1,
        maximum=86400,
        metavar="SECONDS",
    )
    all_addresses: bool = option(
        "Hold the conversation with every address of {host}, one after the other in shares of the one {timeout}; the"
        " worst counts. Else with the first that answers.",
        default=False,
    )
    nameserver: str | None = option(
        "Name server to ask instead of the system's resolver, for all names of this run; needs dnspython.",
        default=None,
        metavar="ADDRESS[:PORT]",
    )
    expect: str | None = option("Text that the greeting must contain.", default=None, metavar="TEXT")
    state: tuple[str, ...] = option(
        "What a finding means, instead of what it usually does: its code, and ok, warning, critical or unknown, such as"
        " timeout=unknown.",
        default=(),
        metavar="CODE=STATE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_states(self.state)
        if self.nameserver is not None:
            split_nameserver(self.nameserver)
        if self.expect == "":
            raise UsageError("expect", "is empty, which every greeting contains")
        if self.is_socket:
            if self.port is not None:
                raise UsageError("port", "goes with a host, and {host} is the path of a Unix socket: leave one out")
            for name, usual in (("family", "any"), ("all_addresses", False), ("nameserver", None)):
                if getattr(self, name) != usual:
                    raise UsageError(name, "goes with a host, and {host} is the path of a Unix socket: leave one out")
            if len(self.host.encode()) > MAX_SOCKET_PATH:
                raise UsageError("host", f"the path of a Unix socket has at most {MAX_SOCKET_PATH} octets")
        else:
            _check_host("host", self.host, self.family)

    @property
    def is_socket(self) -> bool:
        """Whether `host` is the path of a Unix socket."""
        return self.host.startswith("/")

    @property
    def hostname(self) -> str:
        """`host` as the resolver wants it: without the brackets of an IPv6 address."""
        return _unbracketed(self.host)

    @property
    def states(self) -> dict[Code, str]:
        """The states that were chosen for findings; the last word counts."""
        return {Code(code): state for code, dummy, state in (choice.partition("=") for choice in self.state)}

    def prepare(self) -> None:
        """Read and try what the options name, before anything is connected. Raises `UsageError`."""
        if self.nameserver is not None:
            from .lookup import require_dnspython

            require_dnspython("nameserver")


# sockaddr_un has 108 octets on Linux, the last of them 0; elsewhere it is a few less.
MAX_SOCKET_PATH = 107
# RFC 7301 3.1: its length is told in one octet.
MAX_ALPN = 255
# RFC 1035 3.1, as text.
MAX_NAME = 253


def _check_states(choices: tuple[str, ...]) -> None:
    for place, choice in enumerate(choices, start=1):
        where = f"value {place}: " if len(choices) > 1 else ""
        code, equals, state = choice.partition("=")
        if not equals:
            raise UsageError("state", f"{where}{shown(choice)} is not a code and a state, such as timeout=unknown")
        if code not in tuple(Code):
            near = nearest(code, [known.value for known in Code])
            raise UsageError("state", f"{where}{shown(code)} is no code of a finding{near}")
        if state not in STATES:
            raise UsageError("state", f"{where}{shown(state)} is none of {', '.join(STATES)}")


def split_nameserver(text: str) -> tuple[str, int]:
    """The address and the port of a name server: `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53`, `[2001:db8::53]:53`.

    Raises `UsageError`.
    """
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9.]+)(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)", text)
    address = found and (found[1] or found[3] or found[5])
    port = int((found and (found[2] or found[4])) or 53)
    try:
        ipaddress.ip_address(address or "")
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise UsageError("nameserver", f"{shown(text)} is not an address with or without a port, such as 192.0.2.53:53")
    return str(address), port


def _unbracketed(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_host(name: str, host: str, family: str) -> None:
    """A host name or an address, an IPv6 one in brackets or not and with a zone or not (RFC 4007 11)."""
    bare = _unbracketed(host)
    address, percent, zone = bare.partition("%")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        if ":" in bare:
            raise UsageError(name, f"{shown(host)} is no address; give the port as {{port}}") from None
        _check_name(name, host)
        return
    if percent and (version == 4 or not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", zone)):
        raise UsageError(name, f"{shown(host)} is no address with a zone")
    if bare != host and version == 4:
        raise UsageError(name, f"{shown(host)}: brackets are for IPv6 addresses")
    if family not in ("any", f"ipv{version}"):
        raise UsageError("family", f"'{family}' contradicts {{host}} {shown(bare)}, an IPv{version} address")


def _check_name(option: str, name: str) -> None:
    if not name.strip(".") or any(character in name for character in " []%/@"):
        raise UsageError(option, f"{shown(name)} is not a host name or address")
    if re.fullmatch(r"[0-9.]+", name):
        # The resolver would read 127.1 as an address, and certificates would not.
        raise UsageError(option, f"{shown(name)} is no IPv4 address: write all four numbers")
    try:
        encoded = name.encode("idna")
    except UnicodeError:
        encoded = b""
    if not encoded or len(encoded.rstrip(b".")) > MAX_NAME:
        raise UsageError(option, f"{shown(name)} is not a host name that DNS can hold")


@dataclass(frozen=True)
class TlsOptions(ConnectOptions):
    """Whether and how the conversation is encrypted."""

    PROTOCOL: ClassVar[str]
    PORTS: ClassVar[Mapping[str, int]] = {}
    """The protocol's well-known port for each mode of TLS."""

    tls: str = option(
        "How TLS begins: none, after the command STARTTLS, or implicit, from the first byte.",
        default="none",
        choices=TLS_MODES,
    )
    validate_certs: bool = option(
        "Verify the server's certificate, its chain and its name. Unverified, any certificate is accepted, and"
        " a login goes to whoever answers.",
        default=True,
    )
    ca_file: str | None = option(
        "File with certificates (PEM) of authorities to trust besides the system's.",
        default=None,
        path=True,
        metavar="FILE",
    )
    ca_path: str | None = option(
        "Directory with such certificates, named by their hashes (openssl rehash).",
        default=None,
        path=True,
        metavar="DIRECTORY",
    )
    client_cert: str | None = option(
        "File with our own certificate (PEM), for servers that ask for one; it may hold the key, too.",
        default=None,
        path=True,
        metavar="FILE",
    )
    client_key: str | None = option(
        "File with the key of {client_cert} (PEM).", default=None, path=True, metavar="FILE"
    )
    tls_server_name: str | None = option(
        "Name to ask for (SNI) and to look for in the certificate; by default {host}.", default=None, metavar="NAME"
    )
    tls_min: str | None = option(
        f"Oldest version of TLS to speak; by default {USUAL_TLS_MIN}.", default=None, choices=TLS_VERSIONS
    )
    tls_max: str | None = option(
        "Newest version of TLS to speak; by default the newest that OpenSSL knows.", default=None, choices=TLS_VERSIONS
    )
    ciphers: str | None = option(
        "Ciphers to offer up to TLS 1.2, as OpenSSL writes them (openssl ciphers).", default=None, metavar="LIST"
    )
    alpn: tuple[str, ...] = option(
        "Application protocol to offer (ALPN), such as imap; by default none, as mail programs do.",
        default=(),
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tls == "none":
            for name in NEED_TLS:
                if getattr(self, name):
                    raise UsageError(name, "goes with TLS: set {tls} to starttls or implicit")
        oldest = self.tls_min or USUAL_TLS_MIN
        if self.tls_max is not None and TLS_VERSIONS.index(self.tls_max) < TLS_VERSIONS.index(oldest):
            raise UsageError("tls_max", f"{self.tls_max} is older than {{tls_min}}, which is {oldest}")
        for place, name in enumerate(self.alpn, start=1):
            if not name.isascii() or not 0 < len(name) <= MAX_ALPN:
                raise UsageError("alpn", f"value {place} is no name of 1 to {MAX_ALPN} ASCII characters")
        if self.client_key is not None and self.client_cert is None:
            raise UsageError("client_key", "goes with {client_cert}")
        if self.tls_server_name is not None:
            _check_host("tls_server_name", self.tls_server_name, "any")
        elif self.tls != "none" and self.is_socket and self.validate_certs:
            raise UsageError("tls_server_name", "is needed to verify a certificate over a Unix socket")

    @property
    def protocol(self) -> str:
        """What the report calls it."""
        return self.PROTOCOL

    @cached_property
    def contexts(self) -> Contexts:
        """The TLS contexts, made when they are needed; many runs may share theirs (`batch`)."""
        from .tls import Contexts

        return Contexts()

    def share(self, contexts: Contexts) -> None:
        """Use these contexts, which other options may use, too."""
        vars(self)["contexts"] = contexts

    def prepare(self) -> None:
        """Also: make the TLS contexts, which reads certificates and keys."""
        super().prepare()
        if self.tls != "none":
            self.contexts.client(self)

    @property
    def usual_port(self) -> int:
        """The port when none is given."""
        return self.PORTS[self.tls]

    @property
    def effective_port(self) -> int | None:
        """The port that is talked to; None for a Unix socket."""
        return self.port if self.port is not None or self.is_socket else self.usual_port

    @property
    def server_name(self) -> str | None:
        """The name for SNI and for the certificate; None for a Unix socket without one."""
        name = self.tls_server_name or (None if self.is_socket else self.host)
        return None if name is None else _unbracketed(name).partition("%")[0].rstrip(".")


@dataclass(frozen=True)
class LoginOptions(TlsOptions):
    """Who logs in, and over what."""

    username: str | None = option("User to log in as; needs {password} or {token}.", default=None, metavar="NAME")
    password: str | None = option("Password of {username}.", default=None, secret=True)
    token: str | None = option(
        "OAuth 2.0 access token of {username}, instead of a password.", default=None, secret=True
    )
    mechanism: str | None = option(
        "SASL mechanism to log in with; by default the strongest that the server offers.",
        default=None,
        choices=tuple(name for name, known in MECHANISMS.items() if known.exchange is not None),
    )
    allow_plaintext_login: bool = option("Log in without TLS, too; everybody on the way can read along.", default=False)
    expect_login_refused: bool = option(
        "The login must fail, of an account that was closed or a password that leaked; nothing is done after it.",
        default=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("username", "password", "token"):
            if getattr(self, name) == "":
                raise UsageError(name, "is empty")
        if self.username is None:
            for name in ("password", "token", "mechanism", "expect_login_refused"):
                if getattr(self, name):
                    raise UsageError(name, "goes with {username}")
            return
        if self.password is not None and self.token is not None:
            raise UsageError("token", "contradicts {password}: give one of them")
        needs = "password" if self.mechanism is None else MECHANISMS[self.mechanism].needs
        if needs == "token" and self.token is None:
            raise UsageError("token", f"is needed for {self.mechanism}")
        if needs in ("password", "binding") and self.password is None and (self.mechanism or self.token is None):
            raise UsageError("password", "is needed with {username}")
        if needs == "name" and self.client_cert is None:
            raise UsageError("client_cert", f"is needed for {self.mechanism}")
        if self.tls == "none" and not self.allow_plaintext_login:
            raise UsageError(
                "username",
                "a password is only sent over TLS: set {tls} to starttls or implicit, or {allow_plaintext_login}",
            )

    @property
    def secrets(self) -> tuple[str, ...]:
        """All values that must never be shown."""
        values = (getattr(self, declared.name) for declared in declarations(type(self)) if declared.secret)
        return tuple(value for value in values if value)


@dataclass(frozen=True)
class PromiseOptions(LoginOptions):
    """What must be offered, and what must be refused."""

    require_capability: tuple[str, ...] = option(
        "Capability that the server must offer: a keyword, or more words of its line (AUTH PLAIN); with TLS, that which"
        " it offers there.",
        default=(),
        metavar="NAME",
    )
    refuse_capability: tuple[str, ...] = option(
        "Capability that the server must not offer.", default=(), metavar="NAME"
    )
    refuse_plaintext_login: bool = option(
        "The server must neither offer nor accept a login before TLS. It is tried with another connection, and broken"
        " off before a password.",
        default=False,
    )
    refuse_tls: tuple[str, ...] = option(
        "Version of TLS that the server must refuse; each is tried with another connection.",
        default=(),
        choices=TLS_VERSIONS,
    )
    refuse_starttls_injection: bool = option(
        "A command sent in the same packet behind STARTTLS must not be answered inside TLS (CVE-2011-0411). It is tried"
        " with another connection.",
        default=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("require_capability", "refuse_capability"):
            for place, value in enumerate(getattr(self, name), start=1):
                if not value.split():
                    raise UsageError(name, f"value {place} is empty")
        both = {" ".join(value.upper().split()) for value in self.require_capability} & {
            " ".join(value.upper().split()) for value in self.refuse_capability
        }
        if both:
            raise UsageError("refuse_capability", f"{shown(min(both))} is among {{require_capability}}, too")
        if self.refuse_starttls_injection and self.tls != "starttls":
            raise UsageError("refuse_starttls_injection", "goes with STARTTLS: set {tls} to starttls")
        if self.refuse_tls and self.tls == "none":
            raise UsageError("refuse_tls", "goes with TLS: set {tls} to starttls or implicit")
        if self.refuse_plaintext_login and self.tls == "implicit":
            raise UsageError("refuse_plaintext_login", "nothing comes before implicit TLS: set {tls} to starttls")
        if self.refuse_plaintext_login and self.tls == "none" and self.username is not None:
            raise UsageError("refuse_plaintext_login", "contradicts {username} without TLS")

    def prepare(self) -> None:
        """Also: see whether OpenSSL can speak the versions that must be refused."""
        super().prepare()
        for version in self.refuse_tls:
            self.contexts.only(self, version)
