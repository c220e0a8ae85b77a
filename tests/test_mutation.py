"""Whatever single reply of a sane conversation is spoiled, in whatever way, the verdict leaves OK (security.md P3)."""

from __future__ import annotations

import os
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mailprobe.options import Options
from mailprobe.report import Report
from nagios_checks import arguments, command, common, imap, pop3, sieve, smtp

from .mutation import MUTATIONS, Mutant, mutants, sources
from .playing import BUSY_SECONDS, Files, bounded_clean_and_secret, serve
from .running import check

CHECKS = {module.CHECK.name: module.CHECK for module in (imap, pop3, sieve, smtp)}
# Only silence is waited for; everything else has its verdict at once, even on a machine under load.
TIMEOUT = 10.0
SILENT_TIMEOUT = 0.6
SILENT = "silence"
# How many mutants are tried at a time: most of the time goes into waiting.
THREADS = 8
# Of all mutants, one in so many goes through the command line as well, where a process each costs a third of a second.
SAMPLED = 37


class Legal(NamedTuple):
    """A mutation that a sane server may come up with as well, where, and why."""

    mutation: str
    where: str
    why: str


LEGAL = (
    Legal("said twice", r"imap/.*, reply 0 '\* OK ", "an untagged response may come at any time (RFC 9051 5.3)"),
    Legal(
        "refused",
        r"pop3/(.*, reply 1|.*starttls-without-capa: .*, reply 3) ",
        "CAPA is optional (RFC 2449 5): the login is by USER",
    ),
)


def why_legal(mutant: Mutant) -> str | None:
    """Why a mutant may be OK; None when it must not."""
    if mutant.farewell:
        return "a failed farewell is no failure of the service"
    if mutant.leaves_after:
        return "all was done, and only the farewell fails"
    found = (each for each in LEGAL if each.mutation == mutant.mutation and re.search(each.where, mutant.name))
    return next((each.why for each in found), None)


def probed(mutant: Mutant, tls: ssl.SSLContext, files: Files) -> tuple[Report[Any], float]:
    """The report on a mutant, and the seconds beyond the time limit."""
    spec = CHECKS[mutant.protocol]
    with serve(mutant.script, tls) as server:
        options = options_of(spec, ["-H", "localhost", "-4", "-p", str(server.port), *given(mutant, files)])
        started = time.monotonic()
        report = spec.probe(options)
        return report, time.monotonic() - started - options.timeout


def options_of(spec: common.CheckSpec, argv: list[str]) -> Any:
    parsed, secrets = arguments.parse(command.parser(spec), spec.options, argv)
    options: Options = arguments.to_options(spec.options, parsed, secrets)
    return options


def given(mutant: Mutant, files: Files) -> list[str]:
    words = files.arguments(mutant.script)
    # The farewell has a short time limit of its own.
    silent = mutant.mutation == SILENT and not mutant.farewell
    words[words.index("--timeout") + 1] = str(SILENT_TIMEOUT if silent else TIMEOUT)
    return words


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("source", sources("MAILPROBE_ALL" in os.environ))
def test_no_spoiled_reply_is_ok(
    source: str, mutation: str, localhost_tls: tuple[ssl.SSLContext, Path], files: Files
) -> None:
    found = list(mutants(source, mutation))
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda mutant: probed(mutant, localhost_tls[0], files), found))
    assert len(results) > 2
    for mutant, (report, overrun) in zip(found, results):
        assert overrun < 1 + BUSY_SECONDS, mutant.name
        if mutant.farewell:
            assert report.state in ("ok", "warning"), mutant.name
        elif report.state == "ok":
            assert why_legal(mutant), f"{mutant.name}: {report.transcript}"
        else:
            assert report.problems[0].message, mutant.name


def every_so_many() -> list[Mutant]:
    found = [mutant for mutation in MUTATIONS for source in sources() for mutant in mutants(source, mutation)]
    return [mutant for mutant in found if not why_legal(mutant)][::SAMPLED]


@pytest.mark.parametrize("mutant", every_so_many(), ids=lambda mutant: re.sub(r"[^a-z0-9-/]+", "-", mutant.name))
def test_the_command_says_so_too(mutant: Mutant, localhost_tls: tuple[ssl.SSLContext, Path], files: Files) -> None:
    words = given(mutant, files)
    with serve(mutant.script, localhost_tls[0]) as server:
        outcome = check(mutant.protocol, "-H", "localhost", "-4", "-p", server.port, "-vv", *words)
    assert outcome.state in ("warning", "critical"), outcome.output
    bounded_clean_and_secret(outcome, words)
