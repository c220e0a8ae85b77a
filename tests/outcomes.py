"""Outcomes of real checks, for the tests of the report's formats: the demo's mail host asked, and a past made up."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from mailprobe.report import Problem
from nagios_checks import imap, pop3, smtp
from nagios_checks.arguments import parse, to_options, to_ranges
from nagios_checks.command import parser
from nagios_checks.common import CheckSpec, build
from nagios_checks.demo import USER
from nagios_checks.demo.host import DemoHost
from nagios_checks.report.outcome import Finding, Health, Measurement, Outcome, Past, dumped

NOW = datetime(2026, 11, 23, 17, 10, tzinfo=timezone.utc)
SPECS = {"smtp": smtp.CHECK, "pop3": pop3.CHECK, "imap": imap.CHECK}


def outcome(name: str, protocol: str, *arguments: object, group: str | None = None) -> Outcome:
    """The outcome of a check with the arguments of its command line."""
    spec: CheckSpec = SPECS[protocol]
    given, secrets = parse(parser(spec), spec.options, [str(argument) for argument in arguments])
    warning, critical = to_ranges(given, (known.metric for known in spec.known_metrics))
    check, resource = build(spec, to_options(spec.options, given, secrets), warning, critical)
    check()
    report = resource.report
    assert report is not None
    made = Outcome(name, protocol, report.where, str(check.state), check.summary_str, group, perfdata=check.perfdata)
    made.document = dumped(report.to_dict())
    for result in check.results:
        metric = result.metric
        if isinstance(problem := metric.value, Problem):
            words = (problem.code.value, problem.message, problem.stage.value, problem.hint)
            made.findings.append(Finding(str(result.state), *words))
            continue
        if str(result.state) != "ok":
            made.findings.append(Finding(str(result.state), metric.name, str(result)))
        if metric.value is not None:
            made.measurements.append(Measurement(metric.name, float(metric.value), metric.uom or ""))
    return made


def demo_outcomes(folder: Path) -> list[Outcome]:
    """What real checks of the demo's mail host give, of each state but UNKNOWN; all but one have a past."""
    with DemoHost() as host:
        outcomes = _demo_outcomes(host, folder)
    pasts = [past("ok"), past("critical", changed=True), past("warning", flapping=True), past("critical"), None]
    for found, made in zip(outcomes, [*pasts, past("ok", changed=True), past("ok")]):
        found.past = made
    return outcomes


def _demo_outcomes(host: DemoHost, folder: Path) -> list[Outcome]:
    password = folder / "demo-password"
    password.write_text(host.password, encoding="utf-8")
    tls = ("--tls", "starttls", "--ca-file", host.ca_file)
    login = ("--username", USER, "--password-file", password)
    at = ("-H", "localhost", "-p")
    ports = host.ports
    folders = ("--folder", "INBOX", "--folder", "Archive")
    return [
        outcome("inbound mail", "smtp", *at, ports["smtp"], *tls, "-D", "30,10", group="mx"),
        outcome("old relay", "smtp", *at, ports["expired"], *tls, group="mx"),
        outcome("busy relay", "smtp", *at, ports["busy"], group="mx"),
        outcome("backup", "smtp", *at, ports["closed"], group="mx"),
        outcome("submission", "smtp", *at, ports["submission"], *tls, *login, "-w", "time=:0"),
        outcome("pop3 mailbox", "pop3", *at, ports["pop3"], *tls, *login),
        outcome("webmail's mailboxes", "imap", *at, ports["imap"], *tls, *login, *folders),
    ]


def past(state: str, changed: bool = False, flapping: bool = False) -> Past:
    """A fortnight of runs, one an hour, of which the last changes of state are known."""
    runs = [NOW - timedelta(hours=number) for number in reversed(range(14 * 24))]
    since = NOW if changed else NOW - timedelta(days=3, hours=2)
    before = "warning" if state == "ok" else "ok"
    return Past(
        since=since,
        previous_state=before if changed else state,
        changed=changed,
        flapping=flapping,
        changes=[(NOW - timedelta(days=6), state), (NOW - timedelta(days=5), before), (since, state)],
        trends={
            "time": [(time, 0.12 + 0.05 * (time.hour % 7) + (2.0 if time.day == 18 else 0)) for time in runs],
            "certificate_days": [(time, 60 - (time - runs[0]).days if time.day < 16 else 90) for time in runs],
        },
    )


def eight(seven: list[Outcome]) -> Health:
    """A run of the demo's checks and of one that ended in a bug of our own."""
    bug = Outcome("a bug of ours", "imap", "imap.example.org:993", "unknown", "internal error: KeyError: 'x'")
    return health([*seven, bug], "the history file is read-only: nothing was written to it")


def health(outcomes: list[Outcome], *notes: str) -> Health:
    """A run of these."""
    return Health("Mail of example.org", NOW, 3.214, outcomes, list(notes))
