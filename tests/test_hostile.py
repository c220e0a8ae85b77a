"""What a server does on purpose: text injected before TLS, at every place, and work that never ends."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mailprobe import imap, pop3, sieve, smtp
from mailprobe.codes import Code
from mailprobe.options import Options
from mailprobe.report import Report
from nagios_checks.report import patterns

from .running import NOISE_SECONDS, check, run
from .scripted import Script, Scripted

# Before the go-ahead for TLS, that itself, what is injected behind it, and the sane conversation inside TLS. The
# injected words are what the client will wait for inside of TLS, so that whoever believes them has an OK.
INJECTIONS: dict[str, tuple[str, str, str, str]] = {
    "imap": (
        "S: * OK ready\nC: * CAPABILITY\nS: * CAPABILITY IMAP4rev1 STARTTLS\nS: {tag} OK done\nC: * STARTTLS\n",
        "a2 OK begin\\r\\n",
        "* CAPABILITY IMAP4rev1 EVIL\\r\\na3 OK done\\r\\n",
        "C: * CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK done\nC: * LOGOUT\nS: {tag} OK done\n",
    ),
    "pop3": (
        "S: +OK ready\nC: CAPA\nS: +OK\nS: STLS\nS: .\nC: STLS\n",
        "+OK begin\\r\\n",
        "+OK\\r\\nEVIL\\r\\n.\\r\\n",
        "C: CAPA\nS: +OK\nS: USER\nS: .\nC: QUIT\nS: +OK\n",
    ),
    "sieve": (
        'S: "IMPLEMENTATION" "x"\nS: "SIEVE" ""\nS: "STARTTLS"\nS: OK\nC: STARTTLS\n',
        'OK "begin"\\r\\n',
        '"IMPLEMENTATION" "evil"\\r\\nOK\\r\\n',
        'S: "IMPLEMENTATION" "x"\nS: "SIEVE" ""\nS: OK\nC: LOGOUT\nS: OK\n',
    ),
    "smtp": (
        "S: 220 ready\nC: EHLO *\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\n",
        "220 go\\r\\n",
        "250-mx\\r\\n250 EVIL\\r\\n",
        "C: EHLO *\nS: 250 mx\nC: QUIT\nS: 221 bye\n",
    ),
}
PROBES: dict[str, tuple[type[Options], Any]] = {
    "imap": (imap.ImapOptions, imap.probe),
    "pop3": (pop3.Pop3Options, pop3.probe),
    "sieve": (sieve.SieveOptions, sieve.probe),
    "smtp": (smtp.SmtpOptions, smtp.probe),
}
THREADS = 8


def begin_tls(protocol: str, said: str, tls: tuple[ssl.SSLContext, Path]) -> Report[Any]:
    """The report on a server that says so in place of the go-ahead."""
    before, dummy, dummy, inside = INJECTIONS[protocol]
    options, probe = PROBES[protocol]
    with Scripted(f"{before}{said}== starttls\n{inside}", tls=tls[0]) as server:
        report: Report[Any] = probe(
            options(
                host="localhost", family="ipv4", port=server.port, tls="starttls", ca_file=str(tls[1]), timeout=10.0
            )
        )
    return report


@pytest.mark.parametrize("protocol", INJECTIONS)
def test_the_server_of_these_tests_is_sane_without_an_injection(
    protocol: str, localhost_tls: tuple[ssl.SSLContext, Path]
) -> None:
    assert begin_tls(protocol, f"== raw {INJECTIONS[protocol][1]}\n", localhost_tls).problems == []


def octets(escaped: str) -> list[str]:
    """The octets of a script's text, each as the script writes it."""
    return [f"\\{part}" if escaped[place - 1 : place] == "\\" else part for place, part in split(escaped)]


def split(escaped: str) -> list[tuple[int, str]]:
    return [(place, letter) for place, letter in enumerate(escaped) if letter != "\\"]


@pytest.mark.parametrize("protocol", INJECTIONS)
def test_every_octet_behind_the_go_ahead_is_an_injection(
    protocol: str, localhost_tls: tuple[ssl.SSLContext, Path]
) -> None:
    dummy, go_ahead, injected, dummy = INJECTIONS[protocol]
    letters = octets(injected)
    said = [f"== raw {go_ahead}{''.join(letters[: place + 1])}\n" for place in range(len(letters))]
    with ThreadPoolExecutor(THREADS) as pool:
        for report in pool.map(lambda words: begin_tls(protocol, words, localhost_tls), said):
            assert [problem.code for problem in report.problems] == [Code.STARTTLS_INJECTION]
            assert report.tls.version is None
            assert not any("EVIL" in line or "evil" in line for line in report.facts.capabilities)


@pytest.mark.parametrize("protocol", INJECTIONS)
def test_wherever_the_segments_of_an_injection_end_it_is_never_ok(
    protocol: str, localhost_tls: tuple[ssl.SSLContext, Path]
) -> None:
    """What comes after the handshake has begun is no text of the server's any more, but spoils the handshake."""
    dummy, go_ahead, injected, dummy = INJECTIONS[protocol]
    letters = [*octets(go_ahead), *octets(injected)]
    said = [
        f"== raw {''.join(letters[:place])}\n== wait 0.01\n== raw {''.join(letters[place:])}\n"
        for place in range(1, len(letters))
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        for report in pool.map(lambda words: begin_tls(protocol, words, localhost_tls), said):
            (problem,) = report.problems
            # The handshake breaks with an error, or with a connection that the server closes because it breaks there.
            assert problem.code in (
                Code.STARTTLS_INJECTION,
                Code.TLS_HANDSHAKE_FAILED,
                Code.CONNECTION_CLOSED,
                Code.CONNECTION_RESET,
            )
            assert problem.state == "critical"
            assert report.tls.version is None


# Work that never ends.

CATASTROPHE = "^250 (a+)+$"
SLOW_TO_MATCH = Script.read(f"S: 220 ready\nC: EHLO *\nS: 250 mx\nC: NOOP\nS: 250 {'a' * 60}b\n== silence\n")


def test_a_regular_expression_that_does_not_end_is_a_timeout() -> None:
    with Scripted(SLOW_TO_MATCH) as server:
        outcome = check("smtp", *("-H", "127.0.0.1", "-p", server.port, "--command", "NOOP", "--timeout", "1"))
        assert outcome.state == "ok", "it is the expression that takes so long"
    with Scripted(SLOW_TO_MATCH) as server:
        words = ("--command", "NOOP", "--response", CATASTROPHE, "--timeout", "1")
        outcome = check("smtp", "-H", "127.0.0.1", "-p", server.port, *words)
    assert outcome.state == "critical"
    assert "[timeout]" in outcome.first_line
    assert "command_time" in outcome.perfdata()
    assert float(outcome.perfdata()["time"].partition("s")[0]) < 2 + NOISE_SECONDS  # 1.9 on a machine at rest


def test_a_regular_expression_that_does_not_end_holds_no_other_check_of_a_report_up(tmp_path: Path) -> None:
    sane = Script.read(
        "S: 220 ready\nC: EHLO *\nS: 250 mx\nC: NOOP\nS: 250 aaa\nC: RSET\nS: 250 b\nC: QUIT\nS: 221 bye\n"
    )
    with Scripted(SLOW_TO_MATCH) as slow, Scripted(sane) as other:
        checks = tmp_path / "checks.yaml"
        checks.write_text(
            "checks:\n"
            f"- {{name: slow, protocol: smtp, host: 127.0.0.1, port: {slow.port}, timeout: 1, command: [NOOP],"
            f" response: ['{CATASTROPHE}']}}\n"
            f"- {{name: other, protocol: smtp, host: 127.0.0.1, port: {other.port}, command: [NOOP, RSET],"
            f" response: ['{CATASTROPHE}', '^250 c']}}\n"
        )
        outcome = run([sys.executable, "-m", "nagios_checks.cli", "report", str(checks), "--format", "json"])
    states = {
        each["name"]: (each["state"], [found["code"] for found in each["findings"]]) for each in outcome.json["checks"]
    }
    assert states == {"slow": ("critical", ["timeout"]), "other": ("critical", ["command-unexpected-reply"])}


def test_a_search_in_a_process_finds_what_a_search_here_does() -> None:
    for pattern, text in (
        ("^25[02]", "250 ok"),
        ("^25[02]", "550 no"),
        ("ü.$", "a\nxü|"),
        ("(?i)OK", "250 ok"),
        ("", ""),
    ):
        assert patterns.search(pattern, text, 10) == bool(re.search(pattern, text))
    with pytest.raises(socket.timeout):
        patterns.search(CATASTROPHE, f"250 {'a' * 60}b", 0.3)


def test_the_alarm_of_an_expression_is_its_time_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may come first."""
    monkeypatch.setattr(patterns.subprocess, "run", partial(late, patterns.subprocess.run))
    with pytest.raises(socket.timeout):
        patterns.search(CATASTROPHE, f"250 {'a' * 60}b", 0.3)


def late(run: Any, *arguments: Any, timeout: float, **more: Any) -> Any:
    return run(*arguments, timeout=timeout + 20, **more)
