"""What is in the mailbox that tests read: mails of known number, sizes and dates, in folders with awkward names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Optional

LINE = b"x" * 70 + b"\r\n"
LONG_AGO = datetime(2001, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Mail:
    """A mail; `age` is the time since it arrived (INTERNALDATE, the topmost Received), at the start of the server.

    `size` is that of IMAP and POP3, in bytes. `date` is what its Date header claims: by default the truth, that it was
    sent an hour before it arrived; `dated=False`: there is no such header.
    """

    subject: str
    age: timedelta
    size: int
    seen: bool = True
    dated: bool = True
    date: Optional[datetime] = None

    def content(self, now: datetime) -> bytes:
        """The mail itself, exactly `size` bytes with CRLF at the end of each line."""
        arrived = now - self.age
        sent = arrived - timedelta(hours=1)
        lines = [
            f"Received: from mx.example.test by mail.example.test with LMTP; {format_datetime(arrived)}",
            f"Received: from elsewhere.example by mx.example.test with ESMTP;\r\n\t{format_datetime(sent)}",
            "From: somebody@elsewhere.example",
            f"Subject: {self.subject}",
            *([f"Date: {format_datetime(self.date or sent)}"] if self.dated else ()),
            "",
            "",
        ]
        head = "\r\n".join(lines).encode()
        left = self.size - len(head)
        return head + (LINE * (left // len(LINE) + 1))[-left:]


# Oldest first. Who believes the Date headers takes the second one for the oldest; who believes a header that is not
# there fails at the third.
INBOX = (
    Mail("Oldest", timedelta(days=40), 1024),
    Mail("With a Date that lies", timedelta(days=20), 2048, date=LONG_AGO),
    Mail("Without a Date", timedelta(days=10), 3072, dated=False),
    Mail("Unseen", timedelta(days=1), 1024, seen=False),
    Mail("Newest", timedelta(minutes=5), 6144),
)

NON_ASCII = "Entwürfe/日本"
AWKWARD = 'Bills & "quotes" \\ so on'
EMPTY = "Empty"

# name: its form in modified UTF-7 (RFC 3501 5.1.3), without the quotes that some of it need
ENCODED = {
    "INBOX": "INBOX",
    NON_ASCII: "Entw&APw-rfe/&ZeVnLA-",
    AWKWARD: 'Bills &- "quotes" \\ so on',
    EMPTY: "Empty",
}
FOLDERS: dict[str, tuple[Mail, ...]] = {
    "INBOX": INBOX,
    NON_ASCII: (Mail("Draft", timedelta(days=3), 1024),),
    AWKWARD: (Mail("Bill", timedelta(days=2), 1024),),
    EMPTY: (),
}

# Of its quota the mailbox uses 30 % of the bytes and 25 % of the messages.
BYTES = sum(mail.size for mails in FOLDERS.values() for mail in mails)
MESSAGES = sum(map(len, FOLDERS.values()))
BYTES_LIMIT = 50 * 1024
MESSAGES_LIMIT = 28
