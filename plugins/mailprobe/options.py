"""How an option is declared, once, for every front end; and the families that all protocols share.

An options class is a frozen dataclass whose fields are made by `option()`. Each front end derives what it needs from
`declarations()`: argparse, an Ansible argument_spec and its documentation, a schema. What an option may hold is checked
here, when the object is made, so that no front end can forget it and nothing is connected before.
"""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from .sasl import MECHANISMS
from .text import printable

# Longer than any host name, address, password or token in use, shorter than what a server may take as an attack.
MAX_VALUE = 4096
# RFC 5321 4.5.3.1.3: a path has at most 256 octets, and two of them are its angle brackets.
MAX_ADDRESS = 254


class UsageError(Exception):
    """The caller's mistake: an option's value that cannot be used. Nothing was connected.

    `option` is the field's name, `words` say what is wrong and what to do. Names of other options stand in the words in
    braces (`{username}`), so that each front end can spell them its own way; `str()` spells them plainly.
    """

    def __init__(self, option: str, words: str) -> None:
        super().__init__(option, words)
        self.option = option
        self.words = words

    def __str__(self) -> str:
        return f"{self.option}: {spell(self.words, lambda name: name)}"


def spell(words: str, spelling: Callable[[str], str]) -> str:
    """Replace every option name in braces in `words` by `spelling(name)`; `{{` stands for a brace."""
    return re.sub(r"\{\{|\{([a-z][a-z_0-9]*)\}", lambda match: spelling(match[1]) if match[1] else "{", words)


def shown(value: str) -> str:
    """A user's value for the words of a `UsageError`: quoted, inert, cut, and its braces left alone by `spell()`."""
    return "'" + printable(value, limit=80).replace("{", "{{") + "'"


@dataclass(frozen=True)
class Declaration:
    """What `option()` was told of one option, for the front ends that derive from it.

    `kind` is `str`, `int`, `float` or `bool`; `many` marks a list of them. `default` is None for "not given", and means
    nothing when `required`. In `help`, names of other options stand in braces, as in `UsageError`.
    """

    name: str
    kind: str
    many: bool
    required: bool
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    path: bool = False
    multiline: bool = False
    effect: bool = False
    metavar: str | None = None


def option(
    help: str,
    *,
    default: Any = MISSING,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
    path: bool = False,
    multiline: bool = False,
    effect: bool = False,
    metavar: str | None = None,
) -> Any:
    """Declare an option as a dataclass field; without `default` it is required.

    `secret`: never shown, never an argument that `ps` shows. `path`: names a local file. `multiline`: line ends are
    allowed, since the value goes on the wire as a text and not inside a command. `effect`: something stays behind on
    the server, so a dry run leaves it out. `metavar` is the word for the value.
    """
    about = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "secret": secret,
        "path": path,
        "multiline": multiline,
        "effect": effect,
        "metavar": metavar,
    }
    # pylint: disable-next=invalid-field-call  # it knows field() in class bodies only
    return field(default=default, repr=not secret, metadata={"option": about})


def declarations(options: type[Options]) -> tuple[Declaration, ...]:
    """All options of a class, in the order in which they were declared."""
    return tuple(_declaration(f) for f in fields(options))


def _declaration(f: Any) -> Declaration:
    # The annotation is text (PEP 563), and the few forms in use are read here: get_type_hints() cannot evaluate
    # `str | None` on Python 3.9.
    annotation = f.type.removesuffix(" | None")
    many = annotation.startswith("tuple[")
    kind = annotation.removeprefix("tuple[").removesuffix(", ...]")
    required = f.default is MISSING
    default = None if required else f.default
    return Declaration(f.name, kind, many, required, default, **f.metadata["option"])


@dataclass(frozen=True)
class Options:
    """The root of all options classes: checks every value against its declaration.

    Raises `UsageError` when a value cannot be used.
    """

    def __post_init__(self) -> None:
        for declared in declarations(type(self)):
            value = getattr(self, declared.name)
            if declared.many:
                for place, item in enumerate(value, start=1):
                    _check(declared, item, f"value {place}: " if len(value) > 1 else "")
            elif value is not None or declared.required:
                _check(declared, value, "")


TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
TYPE_WORDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}


def _check(declared: Declaration, value: Any, place: str) -> None:
    def wrong(words: str) -> UsageError:
        quoted = "" if declared.secret else f"{shown(str(value))} "
        return UsageError(declared.name, f"{place}{quoted}{words}")

    # A bool is an int to Python, and to nobody else.
    if type(value) not in TYPES[declared.kind]:
        raise wrong(f"is not {TYPE_WORDS[declared.kind]}")
    if declared.choices and value not in declared.choices:
        raise wrong(f"is none of {', '.join(declared.choices)}")
    if declared.kind == "float" and not math.isfinite(value):
        raise wrong("is not a finite number")
    if declared.minimum is not None and value < declared.minimum:
        raise wrong(f"is less than {declared.minimum:g}")
    if declared.maximum is not None and value > declared.maximum:
        raise wrong(f"is more than {declared.maximum:g}")
    if isinstance(value, str):
        _check_text(declared, value, wrong)


# Controls, and what some reader takes for the end of a line.
LINE_BREAKERS = frozenset({"Cc", "Zl", "Zp"})


def _check_text(declared: Declaration, value: str, wrong: Callable[[str], UsageError]) -> None:
    if len(value) > MAX_VALUE:
        raise UsageError(declared.name, f"has {len(value)} characters, {MAX_VALUE} are the most")
    allowed = "\t\r\n" if declared.multiline else ""
    for position, character in enumerate(value, start=1):
        category = unicodedata.category(character)
        if category in LINE_BREAKERS and character not in allowed:
            # Not which one: of a secret nothing is shown.
            raise wrong(f"has a control character or a line separator as character {position}: take it out")
        if category == "Cs":
            raise wrong(f"is not valid UTF-8 at character {position}")


T = TypeVar("T", bound=Options)


def read(options: type[T], values: Mapping[str, Any]) -> T:
    """Read a mapping strictly into an options object; None stands for "not given", as Ansible passes it.

    Raises `UsageError` for a name that is not declared (with the nearest one that is), a missing or an unusable value.
    """
    declared = {d.name: d for d in declarations(options)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in declared:
            raise UsageError(name, "there is no such option" + _nearest(name, declared))
        if value is None:
            continue
        if declared[name].many:
            if not isinstance(value, (list, tuple)):
                raise UsageError(name, "is not a list")
            value = tuple(value)
        given[name] = value
    for name, declaration in declared.items():
        if declaration.required and name not in given:
            raise UsageError(name, "is missing")
    return options(**given)


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


TLS_MODES = ("none", "starttls", "implicit")
FAMILIES = ("any", "ipv4", "ipv6")


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
    expect: str | None = option("Text that the greeting must contain.", default=None, metavar="TEXT")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expect == "":
            raise UsageError("expect", "is empty, which every greeting contains")
        if self.is_socket:
            if self.port is not None:
                raise UsageError("port", "goes with a host, and {host} is the path of a Unix socket: leave one out")
            if self.family != "any":
                raise UsageError("family", "goes with a host, and {host} is the path of a Unix socket: leave one out")
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


# sockaddr_un has 108 octets on Linux, the last of them 0; elsewhere it is a few less.
MAX_SOCKET_PATH = 107
# RFC 1035 3.1, as text.
MAX_NAME = 253


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tls == "none":
            for name in ("ca_file", "client_cert", "client_key", "tls_server_name"):
                if getattr(self, name) is not None:
                    raise UsageError(name, "goes with TLS: set {tls} to starttls or implicit")
        elif self.client_key is not None and self.client_cert is None:
            raise UsageError("client_key", "goes with {client_cert}")
        elif self.tls_server_name is not None:
            _check_host("tls_server_name", self.tls_server_name, "any")
        elif self.is_socket and self.validate_certs:
            raise UsageError("tls_server_name", "is needed to verify a certificate over a Unix socket")

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
