"""IMAP (RFC 9051, RFC 3501): the conversation up to a look into folders, read-only always."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime

from .conversation import hold
from .imap_dialect import Imap, Literal, Reply, Response, Token, encode_folder, number, string
from .login import log_in
from .mailtime import age
from .options import LoginOptions, UsageError, option
from .report import Code, Facts, Report, Stage, Unfinished
from .sasl import Credentials
from .text import printable

PORTS = {"none": 143, "starttls": 143, "implicit": 993}
# INTERNALDATE costs 60 octets a message. In a folder with more, the first and the last message stand for all.
MAX_FETCHED = 5000


@dataclass(frozen=True)
class ImapOptions(LoginOptions):
    """What can be asked of an IMAP server."""

    folder: tuple[str, ...] = option("Folder to look into after the login.", default=("INBOX",), metavar="NAME")
    search: str | None = option(
        'Search in each folder, in IMAP\'s words, such as UNSEEN or SUBJECT "test", and count the hits.',
        default=None,
        metavar="KEYS",
    )
    quota: bool = option("Ask for the quota of the first folder.", default=False)
    identify: bool = option("Ask the server who it is (ID), and say who we are.", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folder:
            raise UsageError("folder", "there is none; INBOX is the usual one")
        if self.username is None:
            for option_name in ("search", "quota"):
                if getattr(self, option_name):
                    raise UsageError(option_name, "needs a login: give {username}")
        for place, name in enumerate(self.folder, start=1):
            if not name:
                raise UsageError("folder", f"value {place} is empty")
        if self.search is not None and (not self.search.strip() or re.search(r"\{[0-9]+\+?\}", self.search)):
            raise UsageError("search", f"'{printable(self.search, limit=80)}' are no search keys")

    @property
    def effective_port(self) -> int | None:
        """The port, by mode when none is given: 143, or 993 for implicit TLS."""
        return self.port if self.port is not None or self.is_socket else PORTS[self.tls]


@dataclass
class Folder:
    """What was found in a folder. Sizes are octets, ages seconds by INTERNALDATE; None for what was not measured."""

    folder: str
    messages: int | None = None
    unseen: int | None = None
    recent: int | None = None
    mailbox_bytes: int | None = None
    oldest_age: int | None = None
    newest_age: int | None = None
    search_hits: int | None = None

    def __str__(self) -> str:
        named = ((f.name, getattr(self, f.name)) for f in fields(self)[1:])
        known = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named if value is not None)
        return f"{self.folder}: {known or 'nothing is known'}"


@dataclass
class ImapFacts(Facts):
    """What the server told. The quotas are percent of the fullest quota root."""

    server_id: list[str] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    quota_storage_percent: float | None = None
    quota_messages_percent: float | None = None


def probe(options: ImapOptions) -> Report[ImapFacts]:
    """Talk to an IMAP server and report what it said. Raises `UsageError` before anything is connected."""
    report = Report("imap", options.hostname, options.effective_port, ImapFacts())
    hold(Imap, report, options, lambda imap: _talk(imap, options, report.facts))
    return report


def _talk(imap: Imap, options: ImapOptions, facts: ImapFacts) -> None:
    imap.connect()
    with imap.stage(Stage.GREETING):
        greeting = imap.greeting()
        facts.banner = greeting.text
        if greeting.kind == "BYE":
            raise imap.refusal(greeting)
        imap.expect_text(facts.banner)
    with imap.stage(Stage.CAPABILITIES):
        _ask_capabilities(imap, facts)
    if options.tls == "starttls":
        with imap.stage(Stage.TLS):
            _start_tls(imap, greeting)
        with imap.stage(Stage.CAPABILITIES):
            _ask_capabilities(imap, facts)  # RFC 9051 6.2.1: what was said before TLS is forgotten
    if options.identify:
        with imap.stage(Stage.CAPABILITIES):
            _ask_id(imap, facts)
    if options.username is None or imap.inspecting:
        return
    if greeting.kind == "PREAUTH":
        raise Unfinished(Code.UNEXPECTED_REPLY, "the server greets with PREAUTH: somebody is logged in already")
    if not log_in(imap, facts, {"LOGIN": lambda login: _login_command(imap, login)} if _has_login(imap) else {}):
        return
    with imap.stage(Stage.CAPABILITIES):
        _ask_capabilities(imap, facts)  # a login brings new ones
        utf8 = _enable_utf8(imap, options.folder)
    for name in options.folder:
        _look_into(imap, options, name, name if utf8 else encode_folder(name), facts)
    if options.quota:
        with imap.stage(Stage.QUOTA):
            _ask_quota(imap, options.folder[0] if utf8 else encode_folder(options.folder[0]), facts)


def _ask_capabilities(imap: Imap, facts: ImapFacts) -> None:
    facts.capabilities = []
    imap.require("CAPABILITY")
    if facts.login is not None:
        return  # what is offered now is not what the login was chosen from
    mechanisms = [name.removeprefix("AUTH=") for name in imap.capabilities if name.startswith("AUTH=")]
    if _has_login(imap) and "LOGIN" not in mechanisms:
        mechanisms.append("LOGIN")
    facts.auth_mechanisms = mechanisms


def _has_login(imap: Imap) -> bool:
    """Whether the command LOGIN may be used (RFC 9051 6.2.3)."""
    return "LOGINDISABLED" not in imap.capabilities and "AUTH=LOGIN" not in imap.capabilities


def _start_tls(imap: Imap, greeting: Response) -> None:
    if greeting.kind == "PREAUTH":
        raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server greets with PREAUTH, which makes STARTTLS impossible")
    if "STARTTLS" not in imap.capabilities:
        raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STARTTLS")
    imap.require("STARTTLS")
    imap.start_tls()


def _ask_id(imap: Imap, facts: ImapFacts) -> None:
    """RFC 2971 3.1."""
    if "ID" not in imap.capabilities:
        return
    for tokens in imap.require('ID ("name" "mailprobe")').all("ID"):
        if tokens and isinstance(tokens[0], list):
            facts.server_id = [str(token) for token in tokens[0] if isinstance(token, str)]


def _login_command(imap: Imap, login: Credentials) -> None:
    imap.require("LOGIN ", string(login.username), " ", string(login.password), shown=f"LOGIN {login.username} ***")


def _enable_utf8(imap: Imap, folders: Iterable[str]) -> bool:
    """RFC 6855 3: with UTF8=ACCEPT, folder names go as they are; without it, in modified UTF-7."""
    if all(name.isascii() for name in folders) or not {"UTF8=ACCEPT", "UTF8=ONLY"} & set(imap.capabilities):
        return False
    return imap.ask("ENABLE UTF8=ACCEPT").ok


def _look_into(imap: Imap, options: ImapOptions, name: str, on_the_wire: str, facts: ImapFacts) -> None:
    folder = Folder(printable(name))
    facts.folders.append(folder)
    mailbox = _quoted(on_the_wire)
    with imap.stage(Stage.MAILBOX):
        size = " SIZE" if "STATUS=SIZE" in imap.capabilities else ""
        status = imap.ask(f"STATUS {mailbox} (MESSAGES UNSEEN RECENT{size})")
        if not _fine(imap, status):
            return
        _read_status(imap, status, folder, on_the_wire)
        if not _fine(imap, imap.ask(f"EXAMINE {mailbox}")):
            return
        if folder.messages:
            _read_ages(imap, folder)
    if options.search is not None:
        with imap.stage(Stage.SEARCH):
            _search(imap, options.search, folder)


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fine(imap: Imap, reply: Reply) -> bool:
    """Note a refusal and go on: other folders may still be measured."""
    if reply.ok:
        return True
    refusal = imap.refusal(reply.status)
    imap.problem(refusal.code, refusal.words, refusal.severity)
    return False


def _read_status(imap: Imap, reply: Reply, folder: Folder, on_the_wire: str) -> None:
    """RFC 9051 7.3.4: pairs of names and numbers; those of another folder do not count."""
    for tokens in reply.all("STATUS"):
        if len(tokens) != 2 or not isinstance(tokens[0], str) or not isinstance(tokens[1], list):
            continue
        if tokens[0] != on_the_wire and not tokens[0].upper() == on_the_wire.upper() == "INBOX":
            continue
        pairs = dict(zip((str(token).upper() for token in tokens[1][::2]), map(number, tokens[1][1::2])))
        folder.messages, folder.unseen = pairs.get("MESSAGES"), pairs.get("UNSEEN")
        folder.recent, folder.mailbox_bytes = pairs.get("RECENT"), pairs.get("SIZE")
    if folder.messages is None:
        imap.problem(Code.MALFORMED_REPLY, f"{imap.awaited} does not tell the number of messages")


def _read_ages(imap: Imap, folder: Folder) -> None:
    messages = folder.messages or 0
    wanted = "1:*" if messages <= MAX_FETCHED else f"1,{messages}"
    reply = imap.ask(f"FETCH {wanted} (INTERNALDATE)")
    if not _fine(imap, reply):
        return
    ages = [age(moment) for tokens in reply.all("FETCH") if (moment := _internal_date(tokens)) is not None]
    if ages:
        folder.oldest_age, folder.newest_age = max(ages), min(ages)


def _internal_date(tokens: tuple[Token, ...]) -> datetime | None:
    items = tokens[1] if len(tokens) > 1 and isinstance(tokens[1], list) else []
    pairs = dict(zip((str(token).upper() for token in items[::2]), items[1::2]))
    value = pairs.get("INTERNALDATE")
    try:
        return datetime.strptime(str(value).strip(), "%d-%b-%Y %H:%M:%S %z")
    except (ValueError, OverflowError):
        return None


def _search(imap: Imap, keys: str, folder: Folder) -> None:
    reply = imap.ask(*search_command(keys))
    if not _fine(imap, reply):
        return
    found = list(reply.all("SEARCH"))
    if not found:
        imap.problem(Code.MALFORMED_REPLY, "the reply to SEARCH does not tell what was found")
        return
    folder.search_hits = len({token for tokens in found for token in tokens if number(token) is not None})


def search_command(keys: str) -> list[str]:
    """The parts of a SEARCH (RFC 3501 6.4.4); quoted texts that are not ASCII go as literals."""
    if keys.isascii():
        return [f"SEARCH {keys}"]
    parts = re.split(r'("(?:[^"\\]|\\.)*")', keys)
    return [
        "SEARCH CHARSET UTF-8 ",
        *(part if part.isascii() else Literal(re.sub(r"\\(.)", r"\1", part.strip('"'))) for part in parts if part),
    ]


def _ask_quota(imap: Imap, mailbox: str, facts: ImapFacts) -> None:
    """RFC 9208 4.2: usage and limit of each resource of each quota root."""
    if not any(name == "QUOTA" or name.startswith("QUOTA=") for name in imap.capabilities):
        imap.problem(Code.QUOTA_UNAVAILABLE, "the server does not offer QUOTA")
        return
    reply = imap.ask(f"GETQUOTAROOT {_quoted(mailbox)}")
    if not _fine(imap, reply):
        return
    percents: dict[str, list[float]] = {"STORAGE": [], "MESSAGE": []}
    for tokens in reply.all("QUOTA"):
        resources = tokens[1] if len(tokens) > 1 and isinstance(tokens[1], list) else []
        for resource, used, limit in zip(resources[::3], map(number, resources[1::3]), map(number, resources[2::3])):
            if str(resource).upper() in percents and used is not None and limit:
                percents[str(resource).upper()].append(round(100 * used / limit, 2))
    facts.quota_storage_percent = max(percents["STORAGE"], default=None)
    facts.quota_messages_percent = max(percents["MESSAGE"], default=None)
    if facts.quota_storage_percent is None and facts.quota_messages_percent is None:
        imap.problem(Code.QUOTA_UNAVAILABLE, f"the server knows no quota for {imap.quoted(mailbox)}")
