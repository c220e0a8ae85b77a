"""What the formats for people have in common: words for times and states, and what is looked up in a probe's report.

A report's keys are read with tolerance: one may be missing where a protocol has no such thing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from mailprobe.codes import STATES
from mailprobe.text import printable

from ..outcome import Finding, Health, Outcome, Past

# As in a status line: what a ticket's title and a mail still show.
MAX_SUMMARY = 500
# Of one check; a server with hundreds of refused recipients must not hide the next check.
MAX_FINDINGS = 12
# A transcript's lines that a page shows, from its beginning and from its end; the json format has them all.
TRANSCRIPT_HEAD = 150
TRANSCRIPT_TAIL = 50
MAX_LINE = 500

# Characters that make a spreadsheet compute when a cell begins with them, and their wide forms.
FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
# Units of octets.
SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def cell(text: str) -> str:
    """`text` on one line, not to be taken for a formula by the spreadsheet that a table is pasted into."""
    shown = printable(text, limit=MAX_SUMMARY).strip()
    return f"'{shown}" if shown[:1] and shown[0] in FORMULA_SIGNS else shown


# Times.


def moment(time: datetime, zone: Any) -> str:
    """A point in time to the minute, with its zone: `2026-11-23 17:10 UTC`."""
    return time.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def zone_of(health: Health) -> Any:
    """The zone in which the run tells its times."""
    return health.started.tzinfo or timezone.utc


def duration(seconds: float) -> str:
    """A span of time in the largest unit that it has two of: `47 hours`."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}s"
    return "less than 2 minutes"


def seconds(value: float) -> str:
    """A measured time as people read it: `12 ms`, `3.21 s`."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.0005 else "< 1 ms"


def amount(value: float, unit: str) -> str:
    """A measurement with its unit; a long time, as an age is, in words."""
    if unit == "s":
        return duration(value) if value >= 120 else seconds(value)
    if unit == "B":
        size = next((size for size in reversed(SIZES) if abs(value) >= SIZES[size]), "B")
        value, unit = value / SIZES[size], size
    number = f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{number} {unit}".strip()


def days_words(days: int) -> str:
    """What is left of a certificate: `12 days`, `expired 3 days ago`."""
    if days < 0:
        return f"expired {_days(-days)} ago"
    return _days(days) if days else "less than a day"


def _days(days: int) -> str:
    return f"{days} day{'s' * (days != 1)}"


def since(past: Past, health: Health) -> str:
    """Since when a check is in its state, as the end of a sentence."""
    if past.previous_state is None:
        return "seen for the first time"
    if past.changed:
        return f"new in this run, {past.previous_state.upper()} before"
    return f"since {moment(past.since, zone_of(health))} ({age(past.since, health)})"


def well_again(outcome: Outcome, health: Health) -> str:
    """That a check is well which was not before, or when somebody was told of it last; else empty."""
    past = outcome.past
    if past is None or outcome.state != "ok":
        return ""
    if past.changed and past.previous_state:
        return f"well again, {past.previous_state.upper()} before"
    if past.told not in (None, "ok"):
        return f"well again since {moment(past.since, zone_of(health))}"
    return ""


def age(time: datetime, health: Health) -> str:
    """How long ago that was when the run began."""
    return duration(max(0.0, (health.started - time).total_seconds()))


def flapping(past: Past, health: Health) -> str:
    """That a check changes its state to and fro, and how often; empty when it does not."""
    if not past.flapping:
        return ""
    if not past.changes:
        return "flapping"
    return f"flapping: {len(past.changes)} changes of state since {moment(past.changes[0][0], zone_of(health))}"


# A run.


def counted(health: Health) -> str:
    """How many checks are in which state, those that have any: `1 critical, 2 ok`."""
    return ", ".join(f"{number} {state}" for state, number in health.counts.items() if number) or "nothing was checked"


def checks_words(number: int) -> str:
    """`1 check`, `60 checks`."""
    return f"{number} check{'s' * (number != 1)}"


# A check.


def summary(outcome: Outcome) -> str:
    """The words of the status line, less the place that stands beside them anyway."""
    return printable(outcome.summary.removeprefix(f"{outcome.where}: "), limit=MAX_SUMMARY)


def findings(outcome: Outcome) -> list[Finding]:
    """What is wrong, the worst first; the summary where a check is bad without a finding, as after a bug of our own."""
    bad = sorted((f for f in outcome.findings if f.state != "ok"), key=lambda finding: STATES.index(finding.state))
    if bad or outcome.state == "ok":
        return bad
    return [Finding(outcome.state, "", summary(outcome))]


def place(finding: Finding) -> str:
    """Where in the conversation it happened: `at tls, with 192.0.2.1`; empty for a measurement."""
    at = [f"at {finding.stage}"] if finding.stage else []
    return ", ".join([*at, f"with {finding.address}"] if finding.address else at)


def host_of(outcome: Outcome) -> str:
    """The host of a check's place, without port and brackets; a Unix socket's path as it is."""
    host, colon, port = outcome.where.rpartition(":")
    host = host if colon and port.isdigit() else outcome.where
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def elapsed(outcome: Outcome) -> float | None:
    """Seconds for the whole check; None when it did not run."""
    return _number(outcome.report.get("elapsed"))


def stages(outcome: Outcome) -> list[tuple[str, float]]:
    """The stages of the conversation that took place, with their seconds."""
    timings: Mapping[str, Any] = outcome.report.get("timings") or {}
    found = ((str(name), _number(value)) for name, value in timings.items())
    return [(name, value) for name, value in found if value is not None]


def finite(values: Sequence[tuple[datetime, float]]) -> list[tuple[datetime, float]]:
    """A trend without the values that are no numbers."""
    return [(time, value) for time, value in values if math.isfinite(value)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def transcript(outcome: Outcome) -> list[str]:
    """The conversation, each line cut and inert, less what is left out of its middle."""
    lines: Sequence[str] = outcome.report.get("transcript") or []
    left_out = len(lines) - TRANSCRIPT_HEAD - TRANSCRIPT_TAIL
    if left_out > 0:
        notice = f"=== {left_out} lines left out, the json format has them all"
        lines = [*lines[:TRANSCRIPT_HEAD], notice, *lines[-TRANSCRIPT_TAIL:]]
    return [printable(line, limit=MAX_LINE) for line in lines]


def facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """What the probe learned of the server, as (name, words); what is not known is left out."""
    report = outcome.report
    parts: Sequence[Mapping[str, Any]] = report.get("addresses") or []
    if parts:
        yield "addresses", ", ".join(f"{part.get('address')} ({part.get('state')})" for part in parts)
    elif report.get("address"):
        yield "address", str(report["address"])
    known = report.get("facts") or {}
    if known.get("banner"):
        yield "greeting", str(known["banner"])
    tls = report.get("tls") or {}
    if tls.get("version"):
        verified = "verified" if tls.get("verified") else f"not verified: {tls.get('verify_error') or 'as asked for'}"
        yield "TLS", f"{tls['version']}, {tls.get('cipher')}, certificate {verified}"
    if known.get("login"):
        yield "login", f"{known['login']}, with {known.get('mechanism')}"
    for measurement in outcome.measurements:
        # The stages have their own table, and the certificates, too.
        if not measurement.metric.endswith("time") and measurement.metric != "certificate_days":
            yield measurement.name.replace("_", " "), amount(measurement.value, measurement.unit)
    for note in report.get("notes") or []:
        yield "note", str(note)


# Certificates.


@dataclass
class CertificateUse:
    """A certificate that the checks met, and which of them; `state` is empty unless somebody has to act."""

    name: str
    issuer: str
    days_left: int
    not_after: datetime
    intermediate: bool
    state: str = ""
    users: list[Outcome] = field(default_factory=list)


def certificates(health: Health) -> list[CertificateUse]:
    """All certificates that the checks met, each once, the one that expires first at the beginning."""
    found: dict[tuple[object, ...], CertificateUse] = {}
    for outcome in health.worst_first:
        for key, use in _certificates(outcome):
            known = found.setdefault(key, use)
            known.users.append(outcome)
            known.state = min(known.state, use.state, key=(*STATES, "").index)
    return sorted(found.values(), key=lambda use: use.not_after)


def _certificates(outcome: Outcome) -> Iterator[tuple[tuple[object, ...], CertificateUse]]:
    report = outcome.report
    sources = [report, *(report.get("addresses") or [])]
    seen = set()
    for source in sources:
        own = source.get("certificate") or {}
        for place, certificate in enumerate([own, *(source.get("chain") or [])[1:]]):
            use = _use(certificate, place > 0, outcome)
            if use is None:
                continue
            key = (certificate.get("fingerprint_sha256"), use.name, use.issuer, use.not_after)
            if key not in seen:
                seen.add(key)
                yield key, use


def _use(certificate: Mapping[str, Any], intermediate: bool, outcome: Outcome) -> CertificateUse | None:
    not_after = instant(certificate.get("not_after"))
    days = certificate.get("days_left")
    if not_after is None or not isinstance(days, int):
        return None
    names: Sequence[str] = certificate.get("names") or []
    subject = str(certificate.get("subject") or "")
    name = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    state = "critical" if days < 0 else ""
    if not intermediate:
        told = [f.state for f in outcome.findings if f.code.startswith("certificate") and f.state != "ok"]
        state = min([state, *told], key=(*STATES, "").index)
    return CertificateUse(name or subject, str(certificate.get("issuer") or ""), days, not_after, intermediate, state)


def instant(text: object) -> datetime | None:
    """A time of a report, ISO 8601 in UTC; None when there is none."""
    try:
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
