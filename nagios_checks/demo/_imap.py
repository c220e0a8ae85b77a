"""Everything of the demo's mail host that speaks, or ought to speak, IMAP."""
# Twisted ships as typed, but most of twisted.mail has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

from email.utils import format_datetime
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory
from twisted.mail import imap4
from twisted.protocols.tls import TLSMemoryBIOFactory

from . import DOMAIN, USER
from ._shared import MECHANISMS, TurnAway, portal

if TYPE_CHECKING:
    from twisted.cred.portal import Portal

    from .mailbox import Mail

DELIMITER = "/"


class Message:
    """One mail as Twisted's server wants to see it: interface IMessage."""

    def __init__(self, mail: Mail) -> None:
        self.mail = mail

    def getUID(self) -> int:
        return self.mail.uid

    def getFlags(self) -> list[str]:
        # Nobody changes anything here, so that what is new stays new.
        return ["\\Seen"] if self.mail.seen else ["\\Recent"]

    def getInternalDate(self) -> str:
        return format_datetime(self.mail.received)

    def getSize(self) -> int:
        return len(self.mail.raw)

    def getHeaders(self, negate: bool, *names: str | bytes) -> dict[str, str]:
        wanted = {(name.decode() if isinstance(name, bytes) else name).lower() for name in names}
        return {name.lower(): text for name, text in self.mail.headers.items() if (name.lower() in wanted) != negate}

    def getBodyFile(self) -> BytesIO:
        return BytesIO(self.mail.body)

    def isMultipart(self) -> bool:
        return False


class Folder:
    """One folder as Twisted's server wants to see it: interface IMailbox, of which a read-only one needs this much."""

    def __init__(self, mails: tuple[Mail, ...], uid_validity: int) -> None:
        self.messages = [Message(mail) for mail in mails]
        self.uid_validity = uid_validity

    def getFlags(self) -> list[str]:
        return ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"]

    def getUIDValidity(self) -> int:
        return self.uid_validity

    def getUIDNext(self) -> int:
        return self.messages[-1].getUID() + 1 if self.messages else 1

    def getMessageCount(self) -> int:
        return len(self.messages)

    def getRecentCount(self) -> int:
        return sum("\\Recent" in message.getFlags() for message in self.messages)

    def getUnseenCount(self) -> int:
        return sum("\\Seen" not in message.getFlags() for message in self.messages)

    def requestStatus(self, names: list[str]) -> Any:
        return imap4.statusRequestHelper(self, names)

    def isWriteable(self) -> bool:
        return False

    def addListener(self, listener: object) -> None:
        """Nothing will happen that one could listen for."""

    removeListener = addListener

    def fetch(self, wanted: imap4.MessageSet, uid: bool) -> list[tuple[int, Message]]:
        numbered = [(message.getUID() if uid else i, i, message) for i, message in enumerate(self.messages, 1)]
        wanted.last = numbered[-1][0] if numbered else 0  # what `*` stands for
        return [(i, message) for number, i, message in numbered if number in wanted]

    def store(self, *arguments: object, uid: bool) -> None:
        raise imap4.ReadOnlyMailbox

    def addMessage(self, *arguments: object) -> Deferred[None]:
        return fail(imap4.ReadOnlyMailbox())


class Listed:
    """A folder in the answer to LIST: Twisted asks for a folder's attributes as it asks for the flags of its mails."""

    def getFlags(self) -> list[str]:
        return []

    def getHierarchicalDelimiter(self) -> str:
        return DELIMITER


class Account(imap4.MemoryAccount):
    """The folders: read-only, and with their names as they are, where Twisted's are all in capitals."""

    def __init__(self, folders: dict[str, Folder]) -> None:
        super().__init__(USER)
        self.folders = folders

    def select(self, name: str, readwrite: object = True) -> Folder | None:
        return self.folders.get("INBOX" if name.upper() == "INBOX" else name)  # RFC 3501 section 5.1

    def listMailboxes(self, reference: str, pattern: str) -> list[tuple[str, Listed]]:
        wildcard = imap4.wildcardToRegexp(reference + pattern, DELIMITER)
        return [(name, Listed()) for name in self.folders if wildcard.fullmatch(name)]

    def isSubscribed(self, name: str) -> bool:
        return True

    def refuse(self, *names: str) -> None:
        raise imap4.ReadOnlyMailbox

    create = delete = rename = subscribe = unsubscribe = refuse


class Server(imap4.IMAP4Server):
    """Twisted's IMAP4 with TLS before login.

    `tls` is the context for STARTTLS; there is none on a connection that has TLS already. Twisted offers and takes
    AUTHENTICATE only when there are `challengers`, and disables LOGIN by itself.
    """

    IDENT = DOMAIN + b" IMAP4rev1 mailprobe demo"

    def __init__(self, users: Portal, tls: Any = None) -> None:
        super().__init__(None if tls else MECHANISMS, tls)
        self.portal: Any = users

    def do_STARTTLS(self, tag: bytes) -> None:
        super().do_STARTTLS(tag)
        self.challengers = MECHANISMS

    unauth_STARTTLS: Any = (do_STARTTLS,)

    def search_SUBJECT(self, query: list[bytes], number: int, message: Message) -> Any:
        # Twisted would look for the client's bytes in a text.
        return super().search_SUBJECT([query.pop(0).decode()], number, message)


def services(password: str, good: Any, expired: Any, mails: dict[str, tuple[Mail, ...]]) -> dict[str, Any]:
    """Service name to Twisted factory; `good` and `expired` are the contexts of two certificates."""
    uid_validity = int(mails["INBOX"][-1].received.timestamp())
    folders = {name: Folder(content, uid_validity) for name, content in mails.items()}
    users = portal(password, imap4.IAccount, partial(Account, folders))
    imaps: Any = Factory.forProtocol(partial(Server, users))
    return {
        "imap": Factory.forProtocol(partial(Server, users, good)),
        "imaps": TLSMemoryBIOFactory(good, False, imaps),
        "imap_bye": Factory.forProtocol(partial(TurnAway, b"* BYE Too busy")),
        "imaps_expired": TLSMemoryBIOFactory(expired, False, imaps),
    }
