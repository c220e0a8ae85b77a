"""The protocols that a report can check, by the word for them in its file."""

from __future__ import annotations

from .. import imap, pop3, sieve, smtp
from ..common import CheckSpec

PROTOCOLS: dict[str, CheckSpec] = {
    "smtp": smtp.CHECK,
    "pop3": pop3.CHECK,
    "imap": imap.CHECK,
    "sieve": sieve.CHECK,
}
