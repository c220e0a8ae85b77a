"""IMAP (RFC 9051, RFC 3501): the conversation up to a look into folders, read-only always."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import ClassVar

from .codes import Code, Stage
from .families import PromiseOptions
from .imap_dialect import (
    Imap,
    Literal,
    Reply,
    Token,
    decode_folder,
    encode_folder,
    number,
    quoted_string,
    string,
)
from .login import log_in
from .mailtime import age
from .options import UsageError, option, shown
from .report import Facts, Report, Unfinished
from .run import hold
from .sasl import Credentials
from .text import printable

# INTERNALDATE costs 60 octets a message. In a folder with more, the first and the last message stand for all.
MAX_FETCHED = 5000
# A quoted text in search keys.
_QUOTED = r'"(?:[^"\\]|\\.)*"'


@dataclass(frozen=True)
class ImapOptions(PromiseOptions):
    """What can be asked of an IMAP server."""

    PROTOCOL: ClassVar[str] = "imap"
    PORTS: ClassVar[Mapping[str, int]] = {"none": 143, "starttls": 143, "implicit": 993}

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
            raise UsageError("search", f"{shown(self.search)} are no search keys")
        if self.search is not None and not re.sub(_QUOTED, "", self.search).isascii():
            raise UsageError("search", f"{shown(self.search)}: put texts that are not ASCII into double quotes")


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
    return hold(Imap, options, ImapFacts(), _talk)


def _talk(imap: Imap, options: ImapOptions, facts: ImapFacts) -> None:
    imap.begin()
    if options.identify:
        with imap.stage(Stage.CAPABILITIES):
            _ask_id(imap, facts)
    if options.username is None or imap.inspecting:
        return
    if imap.authenticated:
        raise Unfinished(Code.UNEXPECTED_REPLY, "the server greets with PREAUTH: somebody is logged in already")
    before = facts.capabilities
    if not log_in(imap, facts, {"LOGIN": lambda login: _login_command(imap, login)} if imap.has_login else {}):
        imap.judge_capabilities(before)
        return
    with imap.stage(Stage.CAPABILITIES):
        imap.ask_capabilities()  # a login brings new ones
        imap.judge_capabilities(before + facts.capabilities)
        utf8 = _enable_utf8(imap, options.folder)
    for name in options.folder:
        _look_into(imap, options, name, utf8, facts)
    if options.quota:
        with imap.stage(Stage.QUOTA):
            _ask_quota(imap, options.folder[0] if utf8 else encode_folder(options.folder[0]), facts)


def _ask_id(imap: Imap, facts: ImapFacts) -> None:
    """RFC 2971 3.1."""
    if "ID" not in imap.capabilities:
        return
    reply = imap.ask('ID ("name" "mailprobe")')
    if not _fine(imap, reply):
        return
    for tokens in reply.all("ID"):
        if tokens and isinstance(tokens[0], list):
            pairs = zip(tokens[0][::2], tokens[0][1::2])
            facts.server_id = [f"{name} {value}" for name, value in pairs if isinstance(value, str)]


def _login_command(imap: Imap, login: Credentials) -> None:
    imap.require("LOGIN ", string(login.username), " ", string(login.password), shown=f"LOGIN {login.username} ***")


def _enable_utf8(imap: Imap, folders: Iterable[str]) -> bool:
    """RFC 6855 3: with UTF8=ACCEPT, folder names go as they are; without it, in modified UTF-7."""
    if all(name.isascii() for name in folders) or not {"UTF8=ACCEPT", "UTF8=ONLY"} & set(imap.capabilities):
        return False
    enabled = imap.ask("ENABLE UTF8=ACCEPT").all("ENABLED")
    return any(str(token).upper() == "UTF8=ACCEPT" for tokens in enabled for token in tokens)


def _look_into(imap: Imap, options: ImapOptions, name: str, utf8: bool, facts: ImapFacts) -> None:
    on_the_wire = name if utf8 else encode_folder(name)
    folder = Folder(printable(name))
    facts.folders.append(folder)
    mailbox = quoted_string(on_the_wire)
    with imap.stage(Stage.MAILBOX):
        items = "MESSAGES UNSEEN"
        if "IMAP4REV1" in imap.capabilities:
            items += " RECENT"  # IMAP4rev2 has done away with it
        if "STATUS=SIZE" in imap.capabilities or "IMAP4REV2" in imap.capabilities:
            items += " SIZE"
        status = imap.ask(f"STATUS {mailbox} ({items})")
        if not _fine(imap, status) or not _read_status(imap, status, folder, on_the_wire):
            return
        if not _fine(imap, imap.ask(f"EXAMINE {mailbox}")):
            return
        if folder.messages:
            _read_ages(imap, folder)
    if options.search is not None:
        with imap.stage(Stage.SEARCH):
            _search(imap, options.search, utf8, folder)


def _fine(imap: Imap, reply: Reply) -> bool:
    """Note a refusal and go on: other folders may still be measured."""
    if reply.ok:
        return True
    refusal = imap.refusal(reply.status)
    imap.problem(refusal.code, refusal.words, refusal.severity)
    return False


def _read_status(imap: Imap, reply: Reply, folder: Folder, on_the_wire: str) -> bool:
    """RFC 9051 7.3.4: pairs of names and numbers; those of another folder do not count. Whether there are any."""
    for tokens in reply.all("STATUS"):
        if len(tokens) != 2 or not isinstance(tokens[0], str) or not isinstance(tokens[1], list):
            continue
        if decode_folder(tokens[0]) != decode_folder(on_the_wire) and not _is_inbox(tokens[0], on_the_wire):
            continue
        names = [str(token).upper() for token in tokens[1][::2]]
        if folder.messages is not None or len(set(names)) < len(names):
            imap.problem(Code.MALFORMED_REPLY, f"{imap.awaited} tells the same twice")
            folder.messages = None
            return False
        pairs = dict(zip(names, map(number, tokens[1][1::2])))
        folder.messages, folder.unseen = pairs.get("MESSAGES"), pairs.get("UNSEEN")
        folder.recent, folder.mailbox_bytes = pairs.get("RECENT"), pairs.get("SIZE")
    if folder.messages is None:
        imap.problem(Code.MALFORMED_REPLY, f"{imap.awaited} does not tell the number of messages")
    return folder.messages is not None


def _is_inbox(*names: str) -> bool:
    return all(name.upper() == "INBOX" for name in names)


def _read_ages(imap: Imap, folder: Folder) -> None:
    messages = folder.messages or 0
    wanted = "1:*"
    if messages > MAX_FETCHED:
        wanted = f"1,{messages}"
        imap.remark(f"{folder.folder} has {messages} messages: the ages are those of the first and the last")
    reply = imap.ask(f"FETCH {wanted} (INTERNALDATE)")
    if not _fine(imap, reply):
        return
    ages = [age(moment) for tokens in reply.all("FETCH") if (moment := _internal_date(tokens)) is not None]
    if len(ages) == (messages if wanted == "1:*" else 2):
        folder.oldest_age, folder.newest_age = max(ages), min(ages)
    else:  # of half of the dates, the oldest is not the oldest
        imap.remark(f"the server did not tell when each message in {folder.folder} came")


def _internal_date(tokens: tuple[Token, ...]) -> datetime | None:
    items = tokens[1] if len(tokens) > 1 and isinstance(tokens[1], list) else []
    pairs = dict(zip((str(token).upper() for token in items[::2]), items[1::2]))
    value = pairs.get("INTERNALDATE")
    try:
        return datetime.strptime(str(value).strip(), "%d-%b-%Y %H:%M:%S %z")
    except (ValueError, OverflowError):
        return None


def _search(imap: Imap, keys: str, utf8: bool, folder: Folder) -> None:
    counted = "ESEARCH" in imap.capabilities or "IMAP4REV2" in imap.capabilities
    reply = imap.ask(*search_command(keys, counted, utf8), long_lines=True)
    if not _fine(imap, reply):
        return
    if counted:
        hits = next((_count(tokens) for tokens in reply.all("ESEARCH") if _is_ours(tokens, reply.status.tag)), None)
    else:
        lists = list(reply.all("SEARCH"))
        # A list among the numbers is an extension's: (MODSEQ 917), RFC 7162 3.1.5.
        numbers = {number(token) for tokens in lists for token in tokens if not isinstance(token, list)}
        hits = len(numbers) if lists and None not in numbers else None
    if hits is None:
        imap.problem(Code.MALFORMED_REPLY, "the reply to SEARCH does not tell what was found")
    folder.search_hits = hits


def _is_ours(tokens: tuple[Token, ...], tag: str) -> bool:
    """Whether an ESEARCH response (RFC 9051 7.3.4) is about our command, if it names one: (TAG "a1") COUNT 5."""
    about = tokens[0] if tokens and isinstance(tokens[0], list) else []
    return len(about) < 2 or about[1] == tag


def _count(tokens: tuple[Token, ...]) -> int | None:
    words = [str(token).upper() for token in tokens]
    place = words.index("COUNT") + 1 if "COUNT" in words else len(words)
    return number(tokens[place]) if place < len(tokens) else None


def search_command(keys: str, counted: bool, utf8: bool) -> list[str]:
    """The parts of a SEARCH (RFC 9051 6.4.4); `counted` asks for the number of hits only (RFC 4731).

    Quoted texts that are not ASCII go as literals with their character set (RFC 3501 6.4.4), unless `utf8` was enabled,
    which forbids that (RFC 6855 3).
    """
    command = "SEARCH RETURN (COUNT) " if counted else "SEARCH "
    if keys.isascii() or utf8:
        return [command + keys]
    parts = [part for part in re.split(f"({_QUOTED})", keys) if part]
    literals = (part if part.isascii() else Literal(re.sub(r"\\(.)", r"\1", part[1:-1])) for part in parts)
    return [f"{command}CHARSET UTF-8 ", *literals]


def _ask_quota(imap: Imap, mailbox: str, facts: ImapFacts) -> None:
    """RFC 9208 4.2: usage and limit of each resource of each quota root."""
    if not any(name == "QUOTA" or name.startswith("QUOTA=") for name in imap.capabilities):
        imap.problem(Code.QUOTA_UNAVAILABLE, "the server does not offer QUOTA")
        return
    reply = imap.ask(f"GETQUOTAROOT {quoted_string(mailbox)}")
    if not _fine(imap, reply):
        return
    percents: dict[str, list[float]] = {"STORAGE": [], "MESSAGE": []}
    for tokens in reply.all("QUOTA"):
        resources = tokens[1] if len(tokens) > 1 and isinstance(tokens[1], list) else []
        for place in range(0, len(resources), 3):
            resource, *numbers = resources[place : place + 3]
            if str(resource).upper() not in percents:
                continue
            used, limit = (*map(number, numbers), None, None)[:2]
            if used is None or limit is None:
                imap.problem(Code.MALFORMED_REPLY, f"the quota of {resource} is told in no numbers")
            elif limit:
                percents[str(resource).upper()].append(round(100 * used / limit, 2))
    facts.quota_storage_percent = max(percents["STORAGE"], default=None)
    facts.quota_messages_percent = max(percents["MESSAGE"], default=None)
    if facts.quota_storage_percent is None and facts.quota_messages_percent is None:
        imap.problem(Code.QUOTA_UNAVAILABLE, f"the server knows no quota for {imap.quoted(mailbox)}")
