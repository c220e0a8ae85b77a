"""What a check prints: the status line with performance data, details behind -v, the transcript behind -vv, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import nagiosplugin

from mailprobe.report import Report
from mailprobe.text import printable

# The words of a status line: what a pager, a ticket's title and a web page still show.
MAX_STATUS = 500
# Nagios 3 takes 4 KiB of output, Nagios 4 and Icinga 8 KiB and more; -vv is for people.
MAX_OUTPUT = 4000
# Of those, what performance data may take; dozens of folders or addresses could have more.
MAX_PERFDATA = 2500
# A single line of it, and how many of the last ones are kept whatever is left out.
MAX_LINE = 250
TAIL = 5
MAX_TRANSCRIPT = 16000


def as_text(check: nagiosplugin.Check, report: Report[Any], verbose: int) -> str:
    """The status line; with `verbose` the findings, hints and facts, with 2 the transcript as well."""
    status = printable(f"{check.name} {str(check.state).upper()} - {check.summary_str}", limit=MAX_STATUS)
    perfdata, left_out = _fitting(check.perfdata)
    lines = [f"{status} | {' '.join(perfdata)}"]
    if verbose:
        lines += [*check.verbose_str, *_facts(report)]
        if left_out:
            lines.append(f"note: {left_out} metrics are left out of the performance data, --json has them all")
    if verbose > 1:
        lines += report.transcript
    return "\n".join(_shortened(lines, MAX_OUTPUT if verbose < 2 else MAX_TRANSCRIPT)) + "\n"


def _fitting(perfdata: list[str]) -> tuple[list[str], int]:
    """The performance data that a monitoring system takes, those that are judged first; and how many are left out."""
    room = MAX_PERFDATA
    kept = set()
    for judged in (True, False):
        for each in perfdata:
            if (";;" not in each.replace(";;;", "")) is not judged:
                continue
            room -= len(each) + 1
            if room >= 0:
                kept.add(each)
    return [each for each in perfdata if each in kept], len(perfdata) - len(kept)


def _shortened(lines: list[str], limit: int) -> list[str]:
    """As many lines as go into `limit` characters, less what is left out of the middle, and a line that says so."""
    status, *rest = lines
    rest = [printable(line, limit=MAX_LINE) for line in rest]
    if sum(len(line) + 1 for line in lines) <= limit:
        return [status, *rest]
    tail = rest[-TAIL:]
    room = limit - sum(len(line) + 1 for line in [status, *tail])
    kept = []
    for line in rest[:-TAIL]:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    left_out = len(rest) - len(kept) - len(tail)
    notice = [f"=== {left_out} lines left out, --json has them all"] if left_out else []
    return [status, *kept, *notice, *tail]


def _facts(report: Report[Any]) -> Iterator[str]:
    if report.address:
        yield f"address: {report.address}"
    if report.tls.version:
        verified = "verified" if report.tls.verified else f"not verified: {report.tls.verify_error or 'as asked for'}"
        yield f"tls: {report.tls.version}, {report.tls.cipher}, certificate {verified}"
    for part in report.addresses:
        yield f"address {part.address}: {_told_of(part)}"
    certificate = report.certificate
    if certificate.subject is not None or certificate.names:
        yield f"certificate: {certificate.subject}, issued by {certificate.issuer}"
        yield f"certificate names: {', '.join(certificate.names) or 'none'}"
        left = f"{certificate.days_left} days left"
        yield f"certificate valid: {certificate.not_before} to {certificate.not_after}, {left}"
        key = f"{certificate.key_type or 'unknown'} {certificate.key_bits or ''}".rstrip()
        yield f"certificate key: {key}, signed with {certificate.signature_algorithm or 'unknown'}"
        yield f"certificate fingerprint: SHA-256 {certificate.fingerprint_sha256}, serial {certificate.serial}"
    for issuer in report.chain[1:]:
        yield f"chain: {issuer.subject}, issued by {issuer.issuer}, {issuer.days_left} days left"
    for field in fields(report.facts):
        yield from _fact(field.name.replace("_", " "), getattr(report.facts, field.name))
    for note in report.notes:
        yield f"note: {note}"


def _told_of(part: Report[Any]) -> str:
    """The line of one address among several."""
    words = [part.state.upper(), f"in {part.elapsed:.3f} s", part.tls.version or ""]
    if part.certificate.days_left is not None:
        words.append(f"certificate valid for {part.certificate.days_left} days")
    words += [f"{problem.message} [{problem.code.value}]" for problem in part.problems]
    return ", ".join(word for word in words if word)


def _fact(name: str, value: Any) -> Iterator[str]:
    if value is None or value == []:
        return
    if not isinstance(value, list):
        yield f"{name}: {value}"
    elif isinstance(value[0], str):
        yield f"{name}: {', '.join(value)}"
    else:
        yield from (f"{name}: {item}" for item in value)


def as_json(check: nagiosplugin.Check, report: Report[Any]) -> str:
    """The whole report, its `state`, `summary` and performance data, as one line of JSON."""
    document = {
        "state": str(check.state),
        "exit_code": check.exitcode,
        "summary": printable(check.summary_str, limit=MAX_STATUS),
        "perfdata": check.perfdata,
        **report.to_dict(),
    }
    return json.dumps(document, allow_nan=False) + "\n"
