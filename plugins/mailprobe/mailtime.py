"""When a message came, as its headers tell, and how long ago that is."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone


def age_of_message(header: list[str]) -> int | None:
    """Seconds since a message arrived; None when its header tells no time.

    That is the time of the topmost Received field, which the last server wrote (RFC 5321 4.4), else of Date, which the
    sender wrote. A time to come counts as now: clocks differ.
    """
    fields = _unfolded(header)
    # Comments may hold semicolons (RFC 5322 3.2.2).
    plain = ((name, re.sub(r"\([^()]*\)", "", value)) for name, value in fields)
    received = next((value.rpartition(";")[2] for name, value in plain if name == "received"), "")
    date = next((value for name, value in fields if name == "date"), "")
    moment = parse_date(received) or parse_date(date)
    return None if moment is None else age(moment)


def age(moment: datetime) -> int:
    """Whole seconds since a moment, never less than 0."""
    return max(0, int(time.time() - moment.timestamp()))


def parse_date(text: str) -> datetime | None:
    """A date of RFC 5322 3.3, None if it is none. Without a zone it counts as UTC."""
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        moment.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment


def _unfolded(header: list[str]) -> list[tuple[str, str]]:
    """Names, in lower case, and values (RFC 5322 2.2.3), to the empty line that ends the header."""
    fields: list[tuple[str, str]] = []
    for line in header:
        if not line:
            break
        if line[0] in " \t" and fields:
            name, value = fields[-1]
            fields[-1] = (name, value + line)
        elif ":" in line:
            name, dummy, value = line.partition(":")
            fields.append((name.strip().lower(), value))
    return fields
