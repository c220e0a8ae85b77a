"""Write a file of checks that a person likes to read and `mailprobe report` takes as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone

from mailprobe.text import printable

from .find import Discovery, Found

# Texts that mean the same to every reader of YAML without quotes.
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*([. ][A-Za-z0-9_][A-Za-z0-9_-]*)*")
NOT_PLAIN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
MAX_COMMENT = 110
# Of a title or a check's name; a report takes 200 characters, and people read fewer.
MAX_NAME = 120
GROUPS = {"smtp": "incoming mail", "submission": "outgoing mail", "submissions": "outgoing mail"}
HEAD = """\
# Checks of the mail of {domain}, found by mailprobe discover on {day}.
# Run them:             mailprobe report checks.yaml
# See what they may be: mailprobe schema
"""
DEFAULTS = """\
title: {title}
defaults:
  timeout: 10
  # Certificates should be renewed when they have 30 days left.
  warning: {{certificate_days: "21:"}}
  critical: {{certificate_days: "7:"}}
"""
LOGIN = """\
    # Does a login work? Make a user for it, and take away the marks:
    # username: probe
    # password_file: /etc/mailprobe/password
"""
RECIPIENT = """\
    # Is mail taken? Nothing is delivered:
    # rcpt_to: [{address}]
"""


def compose(discovery: Discovery, nameserver: str | None = None) -> str:
    """The file."""
    day = datetime.now(timezone.utc).date().isoformat()
    parts = [HEAD.format(domain=discovery.domain, day=day)]
    parts += [_comment("", remark) for remark in discovery.remarks]
    title = printable(f"Mail of {discovery.domain}", limit=MAX_NAME)
    parts.append("\n" + DEFAULTS.format(title=text(title)))
    if nameserver is not None:
        parts.append(f"  nameserver: {text(nameserver)}\n")
    parts.append("\nchecks:\n")
    for number, found in enumerate(discovery.found, start=1):
        parts += ["".join(_check(found, discovery.domain, _name(found, number))), "\n"]
    return "".join(parts).rstrip("\n") + "\n"


def _name(found: Found, number: int) -> str:
    """What no other check is called: a host's name that is too long to tell in full is told by its number."""
    candidate = found.candidate
    usual = candidate.port == candidate.kind.port
    name = f"{candidate.kind.word} at {candidate.host}" + ("" if usual else f" port {candidate.port}")
    return name if len(name) <= MAX_NAME else f"{number}: {name}"[: MAX_NAME - 1] + "…"


def _check(found: Found, domain: str, name: str) -> Iterator[str]:
    candidate = found.candidate
    if candidate.reason:
        yield _comment("  ", f"{candidate.reason}.")
    if found.banner:
        yield _comment("  ", f"It says: {found.banner}")
    for problem in found.problems:
        yield _comment("  ", f"Just now: {problem}")
    yield f"  - name: {text(name)}\n"
    yield f"    group: {GROUPS.get(candidate.kind.word, 'mailboxes')}\n"
    yield f"    protocol: {candidate.kind.protocol}\n"
    yield f"    host: {text(candidate.host)}\n"
    yield f"    port: {candidate.port}\n"
    remark = {None: "  # most offer it", "none": "  # it did not offer STARTTLS"}.get(found.tls, "")
    yield f"    tls: {found.tls or 'starttls'}{remark}\n"
    if candidate.kind.word == "smtp":
        yield RECIPIENT.format(address=text(f"postmaster@{domain}"))
    elif found.tls != "none":
        yield LOGIN


def _comment(indent: str, words: str) -> str:
    return f"{indent}# {printable(words, limit=MAX_COMMENT)}\n"


def text(value: str) -> str:
    """A text for YAML, in quotes where it could be read as something else."""
    plain = PLAIN.fullmatch(value) and value.lower() not in NOT_PLAIN
    return value if plain else json.dumps(value, ensure_ascii=False)
