"""The test message: small, complete (RFC 5322), and easy to recognise by filters and people."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

from .version import __version__

# RFC 5321 4.5.3.1.6: 1000 octets with the CRLF; the first dot may be doubled.
MAX_TEXT_LINE = 990


def compose(sender: str, recipients: list[str], host: str, subject: str, body: str) -> EmailMessage:
    """A message with all that a filter expects of an honest one; `host` is the name that we said hello with.

    `Auto-Submitted: auto-generated` (RFC 3834) keeps vacation notices from answering.
    """
    message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    message["Date"] = formatdate(usegmt=False, localtime=True)
    message["From"] = _whole(sender or "mailprobe", host)
    message["To"] = ", ".join(_whole(recipient, host) for recipient in recipients)
    message["Subject"] = subject
    message["Message-ID"] = make_msgid("mailprobe", domain=host)
    message["Auto-Submitted"] = "auto-generated"
    message["User-Agent"] = f"mailprobe/{__version__}"
    # ASCII goes as it is: quoted-printable, which email prefers for lines over 78, is harder to read in a transcript.
    plain = body.isascii() and all(len(line) <= MAX_TEXT_LINE for line in body.splitlines())
    message.set_content(body, cte="7bit" if plain else "quoted-printable")
    return message


def _whole(address: str, host: str) -> str:
    """An address with a domain, which only the envelope may leave out (RFC 5321 4.5.1: postmaster)."""
    return address if "@" in address else f"{address}@{host}"


def on_the_wire(message: EmailMessage) -> bytes:
    """The octets to send after DATA: CRLF line ends only, and dots doubled at the start of lines (RFC 5321 4.5.2)."""
    lines = message.as_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
