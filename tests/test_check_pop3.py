"""check_mail_pop3 against a real Dovecot and Cyrus: what is in a mailbox, and that it is left as it was.

Logins and TLS, which are the same in all protocols, are in test_credentials.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from . import running
from .running import Outcome
from .scripted import Scripted
from .servers import Server, wait_until
from .servers.certificates import CertificateAuthority
from .servers.cyrus import MAILS, Cyrus
from .servers.dovecot import LOCKED, PASSWORD, QUOTA_UNKNOWN, READER, STRICT, Dovecot
from .servers.mailboxes import INBOX
from .test_check_smtp import implicit, in_order, report, starttls, transcript

METRICS = ("messages", "mailbox_bytes", "largest_bytes", "oldest_age", "newest_age")
EMPTY_MAILBOX = QUOTA_UNKNOWN  # nothing else is known of it, and no test delivers to it
# Of a server's start, the second in which it was, and the one in which the check asked.
TOLERANCE = 3


def check(server: Server, *arguments: object, host: str = STRICT, service: str = "pop3") -> Outcome:
    return running.check("pop3", "-H", host, "-p", server.ports[service], *arguments, env={"PW": PASSWORD})


def login(name: str, *mechanism: str) -> tuple[str, ...]:
    return ("--username", name, "--password-env", "PW", *(("--mechanism", *mechanism) if mechanism else ()))


def passes(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome.output
    assert outcome.errors == ""
    assert outcome.first_line.startswith("POP3 OK - ")
    outcome.perfdata()
    return outcome


def maildir(dovecot: Dovecot, username: str) -> Path:
    return dovecot.directory / "mail" / username.partition("@")[0]


def mails(directory: Path) -> dict[str, tuple[bytes, float]]:
    """The mails of a maildir with all folders: their paths, which hold the flags, their contents and dates."""
    paths = (path for name in ("cur", "new") for path in directory.rglob(f"{name}/*"))
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime) for path in paths}


@contextmanager
def logged(dovecot: Dovecot) -> Iterator[list[str]]:
    """What Dovecot logs until it has logged the end of a conversation."""
    start = len(dovecot.log())
    lines: list[str] = []
    yield lines
    wait_until(lambda: "isconnected: " in dovecot.log()[start:], "Dovecot to log the end", seconds=5)
    lines += dovecot.log()[start:].splitlines()


# What works.


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("mode", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_greets_is_ok_without_a_login(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mode: str, host: str
) -> None:
    server = request.getfixturevalue(server_name)
    tls = () if mode == "none" else ("--tls", mode, "--ca-file", ca.pem_path)
    outcome = passes(check(server, *tls, "-4", host=host, service="pop3s" if mode == "implicit" else "pop3"))
    banner = {"dovecot": r"Dovecot \(Debian\) ready\. <.*>", "cyrus": "cyrus.example.test Cyrus POP3 .* <.*>"}
    security = "" if mode == "none" else r"TLSv1\.[23], certificate valid for 89 days, "
    port = server.ports["pop3s" if mode == "implicit" else "pop3"]
    expected = rf"POP3 OK - {host}:{port}: '{banner[server_name]}', {security}in 0\.\d{{3}} s \| "
    assert re.match(expected, outcome.first_line), outcome.first_line
    assert not set(METRICS) & set(outcome.perfdata())


def test_the_conversation_reads_as_somebody_would_type_it(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER, "USER"), "-vv"))
    in_order(
        transcript(outcome),
        *("<-  +OK Dovecot", " -> CAPA", "<-  +OK", "<-  STLS", "<-  .", " -> STLS", "<-  +OK ", "=== TLS: TLSv1."),
        *(" ~> CAPA", "<~  +OK", "<~  USER", "<~  .", f" ~> USER {READER}", "<~  +OK", " ~> PASS ***", "<~  +OK "),
        *(" ~> STAT", "<~  +OK 5 13312", " ~> LIST", "<~  +OK 5", "<~  1 1024", "<~  5 6144", "<~  ."),
        *(" ~> TOP 1 0", "<~  +OK", " ~> TOP 5 0", "<~  +OK", " ~> QUIT", "<~  +OK"),
    )


def test_a_text_that_the_greeting_contains_can_be_expected(dovecot: Dovecot) -> None:
    passes(check(dovecot, "--expect", "Dovecot (Debian)"))
    report(check(dovecot, "--expect", "Cyrus", "--json"), "critical", "greeting-unexpected")


# What is in the mailbox.


def test_the_mailbox_is_measured(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER)))
    now = time.time()
    data = outcome.perfdata()
    sizes = [mail.size for mail in INBOX]
    assert f", {len(INBOX)} messages, {sum(sizes)} octets, in " in outcome.first_line
    assert data["messages"] == f"{len(INBOX)};;;0"
    assert data["mailbox_bytes"] == f"{sum(sizes)}B;;;0"
    assert data["largest_bytes"] == f"{max(sizes)}B;;;0"
    arrived = [path.stat().st_mtime for path in (maildir(dovecot, READER) / "cur").glob("*.test*")]
    for metric, moment in (("oldest_age", min(arrived)), ("newest_age", max(arrived))):
        seconds = int(re.fullmatch(r"(\d+)s;;;0", data[metric])[1])
        assert abs(seconds - (now - moment)) <= TOLERANCE
    assert now - min(arrived) > timedelta(days=40).total_seconds()


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_the_mailbox_is_measured_at_cyrus(cyrus: Cyrus, ca: CertificateAuthority, mode: str) -> None:
    tls, service = (starttls(ca), "pop3") if mode == "starttls" else (implicit(ca), "pop3s")
    facts = report(check(cyrus, *tls, *login("user@example.test"), "--json", host="127.0.0.1", service=service))[
        "facts"
    ]
    assert (facts["messages"], facts["mailbox_bytes"], facts["largest_bytes"]) == (2, 3000, 2000)
    # The ages count from the start of the server, which may have been at the beginning of the session.
    old, new = (mail.age.total_seconds() for mail in MAILS)
    assert facts["oldest_age"] - old == pytest.approx(facts["newest_age"] - new, abs=TOLERANCE)
    assert 0 <= facts["newest_age"] - new + TOLERANCE < 3600


def test_an_empty_mailbox_has_no_ages_and_no_largest_message(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    data = passes(check(dovecot, *starttls(ca), *login(EMPTY_MAILBOX))).perfdata()
    assert (data["messages"], data["mailbox_bytes"]) == ("0;;;0", "0B;;;0")
    assert not {"largest_bytes", "oldest_age", "newest_age"} & set(data)


def test_a_header_of_a_mail_is_not_in_the_transcript(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER), "-vv"))
    assert outcome.output.count("=== the header of the message, 7 lines") == 2
    for words in ("Oldest", "Newest", "Received:", "somebody@elsewhere", "mx.example.test", "xxxx"):
        assert words not in outcome.output
    found = report(check(dovecot, *starttls(ca), *login(READER), "--json"))
    assert "somebody@elsewhere" not in str(found)


def test_nothing_in_the_mailbox_is_changed(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    before = mails(maildir(dovecot, READER))
    assert len(before) == 7
    for mechanism in ("USER", "SCRAM-SHA-256"):
        with logged(dovecot) as lines:
            passes(check(dovecot, *starttls(ca), *login(READER, mechanism)))
        assert mails(maildir(dovecot, READER)) == before
        assert re.search(r" top=2/\d+, retr=0/0, del=0/5, size=13312$", lines[-1]), lines


ONE_MAIL = """\
S: +OK ready
C: CAPA
S: -ERR
C: USER *
S: +OK
C: PASS *
S: +OK
C: STAT
S: +OK 1 500
C: LIST
S: +OK
S: 1 500
S: .
C: TOP 1 0
S: +OK
{header}
S: .
C: TOP 1 0
S: +OK
{header}
S: .
C: QUIT
S: +OK
"""


def hours_ago(hours: float) -> str:
    return format_datetime(datetime.now(timezone.utc) - timedelta(hours=hours))


@pytest.mark.parametrize(
    ("header", "hours"),
    [
        (("Received: from a; {1}", "Received: from b; {5}", "Date: {200}"), 1),
        (("Received: from a by b", "\\tid 1;", "\\t{1}", "Date: {200}"), 1),
        (("RECEIVED: from a", " (comment; more) ; {1} (UTC)"), 1),
        (("Date: {2}",), 2),
        (("Received: from a; yesterday", "Date: {2}"), 2),
        (("Received: from a", "Date: {2}"), 2),
        (("Received: from a; {-2}",), 0),
        (("Date: {1}", "", "Received: from the body; {5}"), 1),
        (("Subject: neither", "X-Date: {2}"), None),
        (("Date: Mon, 99 Foo 2020 99:99:99",), None),
        (("",), None),
    ],
    ids=[
        "topmost",
        "folded",
        "comments",
        "Date",
        "no time",
        "no semicolon",
        "to come",
        "body",
        "none",
        "bad",
        "nothing",
    ],
)
def test_a_mail_came_when_its_last_server_says_so(header: tuple[str, ...], hours: float | None) -> None:
    dated = (re.sub(r"\{(-?\d+)\}", lambda match: hours_ago(int(match[1])), line) for line in header)
    with Scripted(ONE_MAIL.format(header="\n".join(f"S: {line}" for line in dated))) as server:
        options = ("-H", "127.0.0.1", "-p", server.port, "--allow-plaintext-login", *login("user"))
        facts = report(running.check("pop3", *options, "--json", env={"PW": PASSWORD}))["facts"]
        server.finish()
    assert server.errors == []
    expected = None if hours is None else pytest.approx(3600 * hours, abs=TOLERANCE)
    assert (facts["oldest_age"], facts["newest_age"]) == (expected, expected)


# Thresholds.


@pytest.mark.parametrize("metric", [*METRICS, "mailbox_time", "auth_time", "capabilities_time"])
@pytest.mark.parametrize(("option", "code"), [("-w", 1), ("-c", 2)])
def test_every_metric_can_raise_an_alarm(
    dovecot: Dovecot, ca: CertificateAuthority, metric: str, option: str, code: int
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(READER), option, f"{metric}=@0:")
    assert outcome.code == code, outcome.output
    assert f": {metric} is " in outcome.first_line
    value, warning, critical = [*outcome.perfdata()[metric].split(";"), "", ""][:3]
    assert re.fullmatch(r"[0-9.]+(s|B)?", value)
    assert (warning, critical) == (("@0:", "") if option == "-w" else ("", "@0:"))


@pytest.mark.parametrize(
    ("ranges", "code"),
    [
        (("-w", "messages=4", "-c", "messages=5"), 1),
        (("-w", "messages=5", "-c", "messages=10"), 0),
        (("-w", "mailbox_bytes=13312", "-c", "largest_bytes=6144"), 0),
        (("-w", "mailbox_bytes=13311"), 1),
        (("-c", "largest_bytes=6143"), 2),
        (("-c", "newest_age=3000000"), 0),
        (("-c", "oldest_age=3000000"), 2),
        (("-c", "newest_age=~:60"), 2),
        (("-w", "oldest_age=3456000:"), 0),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value),
)
def test_a_range_judges_what_was_measured(
    dovecot: Dovecot, ca: CertificateAuthority, ranges: tuple[str, ...], code: int
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(READER), *ranges)
    assert outcome.code == code, outcome.output


@pytest.mark.parametrize("metric", ["largest_bytes", "oldest_age", "newest_age"])
def test_a_range_for_what_an_empty_mailbox_lacks_is_unknown(
    dovecot: Dovecot, ca: CertificateAuthority, metric: str
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(EMPTY_MAILBOX), "-w", f"{metric}=0:")
    assert outcome.code == 3
    assert f"{metric} was not measured" in outcome.first_line
    assert "messages" in outcome.perfdata()


@pytest.mark.parametrize("metric", METRICS)
def test_a_range_for_the_mailbox_without_a_login_is_unknown(dovecot: Dovecot, metric: str) -> None:
    outcome = check(dovecot, "-c", f"{metric}=0:")
    assert outcome.code == 3
    assert f"{metric} was not measured" in outcome.first_line


# Manners, and what is refused.


@pytest.mark.parametrize(
    ("options", "farewell"),
    [
        ((), "no auth attempts in "),
        (("STARTTLS",), "no auth attempts in "),
        (("STARTTLS", "LOGIN"), "Logged out "),
        (("--expect", "another banner"), "no auth attempts in "),
        (("STARTTLS", "LOGIN", "--mechanism", "USER"), "Logged out "),
        (("STARTTLS", "LOGIN", "--expect-login-refused"), "Logged out "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_dovecot_logs_one_polite_client_that_says_quit(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...], farewell: str
) -> None:
    stand_for = {"STARTTLS": starttls(ca), "LOGIN": login(READER)}
    with logged(dovecot) as lines:
        outcome = check(dovecot, *(word for option in options for word in stand_for.get(option, (option,))))
    assert outcome.code in (0, 2)
    ends = [line for line in lines if "isconnected: " in line]
    assert len(ends) == 1, lines
    assert farewell in ends[0]
    assert "Logged out " in ends[0] or "Aborted login by logging out" in ends[0]
    assert not [line for line in lines if re.search("Error|Warning|Fatal|Panic|Connection closed", line)]


def test_a_mailbox_that_another_session_has_locked_is_named(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    """Dovecot waits ten seconds for it, so that the check needs more."""
    with dovecot.locked_mailbox():
        outcome = check(dovecot, *starttls(ca), *login(LOCKED), "-t", 15, "-v")
    assert outcome.code == 1
    assert "'-ERR [IN-USE] Mailbox is locked by another POP3 session.' [mailbox-in-use] | " in outcome.first_line
    passes(check(dovecot, *starttls(ca), *login(LOCKED)))


KEYS = "banner capabilities auth_mechanisms mechanism login messages mailbox_bytes largest_bytes oldest_age newest_age"


@pytest.mark.parametrize("options", [(), ("LOGIN",), ("--expect", "another")], ids=str)
def test_json_has_every_key_and_the_same_exit_code(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...]
) -> None:
    given = (*starttls(ca), *(login(READER) if options == ("LOGIN",) else options))
    outcome = check(dovecot, *given, "--json")
    assert set(outcome.json["facts"]) == set(KEYS.split())
    assert outcome.code == outcome.json["exit_code"] == check(dovecot, *given).code
    assert outcome.json["protocol"] == "pop3"


@pytest.mark.parametrize(("mode", "port"), [("none", 110), ("starttls", 110), ("implicit", 995)])
def test_the_port_follows_from_the_mode(mode: str, port: int) -> None:
    outcome = running.check("pop3", "-H", "127.0.0.1", "--tls", mode, "-t", 2, "--json")
    assert outcome.json["port"] == port
