"""The mail that POP3 and IMAP show: made when the host starts, and the same for every client after that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime

from . import DOMAIN, USER

ADDRESS = f"{USER}@{DOMAIN.decode()}"
LARGE = "This line is one of two thousand and five hundred that are all alike, in size.\r\n" * 2_500  # 200 kB


@dataclass(frozen=True)
class Mail:
    """One mail; all its lines end in CRLF.

    Twisted's IMAP server composes a mail from its headers, so that none may be folded or come twice, and all have names
    in title case: then a mail is the same, octet for octet, by POP3 and by IMAP.
    """

    uid: int
    headers: dict[str, str]
    body: bytes
    received: datetime
    seen: bool

    @property
    def raw(self) -> bytes:
        """The mail as it came over the wire."""
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return head.encode() + b"\r\n" + self.body


def folders(now: datetime) -> dict[str, tuple[Mail, ...]]:
    """Folder name to mails, oldest first, with ages as seen from `now`; the folder of POP3 is `INBOX`."""

    def mail(uid: int, age: timedelta, subject: str, text: str, *, seen: bool = True) -> Mail:
        received = now - age
        headers = {
            "Received": f"from mx.example.org by {DOMAIN.decode()} with ESMTPS; {format_datetime(received)}",
            "Date": format_datetime(received - timedelta(seconds=2)),
            "From": "Somebody <somebody@example.org>",
            "To": ADDRESS,
            "Subject": subject,
            "Message-Id": f"<{received:%Y%m%d%H%M%S}.{uid}@example.org>",
            "Mime-Version": "1.0",
            "Content-Type": "text/plain; charset=us-ascii",
        }
        return Mail(uid, headers, text.encode(), received, seen)

    return {
        "INBOX": (
            mail(1, timedelta(days=30), "Welcome to demo.example", "Your mailbox is ready.\r\n"),
            mail(2, timedelta(days=7), "Minutes of the meeting", "We met, and parted.\r\n"),
            mail(3, timedelta(days=1), "The report, all of it", LARGE),
            mail(4, timedelta(minutes=10), "Lunch?", "At noon, as ever.\r\n", seen=False),
        ),
        "Archive": (mail(1, timedelta(days=90), "Minutes of the last meeting", "We met.\r\n"),),
        "Entwürfe": (),
    }
