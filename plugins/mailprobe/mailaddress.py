"""What a mail address is (RFC 5321 4.1.2)."""

from __future__ import annotations

import ipaddress
import re

from .options import UsageError, shown

# RFC 5321 4.5.3.1.3: a path has at most 256 octets, and two of them are its angle brackets.
MAX_ADDRESS = 254
# RFC 5321 4.1.2, less what nobody could tell from a mistake: spaces inside quotes. "_" is no host name, but in use.
LOCAL_PART = re.compile(
    r"""[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*|"[!#-\[\]-~]+\"""",
)
DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
MAX_DOMAIN = 255


def is_domain(text: str) -> bool:
    """Whether it is a domain or an address literal (RFC 5321 4.1.2, 4.1.3)."""
    if not (text.startswith("[") and text.endswith("]")):
        return DOMAIN.fullmatch(text) is not None and len(text) <= MAX_DOMAIN
    try:
        ipaddress.ip_address(text[1:-1].removeprefix("IPv6:"))
    except ValueError:
        return False
    return True


def check_address(option: str, address: str, place: str = "") -> None:
    """Raise `UsageError` unless it is one plain address, in angle brackets or not; `place` says which of the values."""
    plain = bare(address)
    local, dummy, domain = plain.rpartition("@")
    known = plain.lower() == "postmaster" or (LOCAL_PART.fullmatch(local) and is_domain(domain))
    if not known or len(plain) > MAX_ADDRESS:
        raise UsageError(option, f"{place}{shown(address)} is not one plain address like postmaster@example.org")


def bare(address: str) -> str:
    """An address without its angle brackets."""
    return address[1:-1] if address.startswith("<") and address.endswith(">") else address
