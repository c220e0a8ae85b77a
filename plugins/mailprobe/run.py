"""The connections of one run: to one address or to all, a second one to read a bad certificate, one for each promise.

A run has one deadline and ends in one report, however many connections it makes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Generic, TypeVar

from . import certificate, tls
from .codes import CERTIFICATE_CODES, Code, Stage
from .conversation import Conversation
from .families import PromiseOptions
from .network import Candidate, Deadline
from .promises import Promise, of_all
from .report import F, Report
from .text import Blotter

C = TypeVar("C", bound=Conversation)

# A host that could not be talked to keeps or breaks no promise, and one that has enough of us is left alone.
_NOT_REACHED = frozenset({Stage.RESOLVE, Stage.CONNECT, Stage.GREETING})
_HAD_ENOUGH = frozenset({Code.BUSY, Code.RATE_LIMITED, Code.LOGIN_DELAY})


def new_report(options: PromiseOptions, facts: F) -> Report[F]:
    """The report of a run that has not begun."""
    return Report(options.protocol, options.hostname, options.effective_port, facts, options.states)


def overrun(options: PromiseOptions, facts: F) -> Report[F]:
    """The report of a run that did not end by itself: what took so long is on this host, and not in any stage."""
    report = new_report(options, facts)
    report.elapsed = options.timeout
    report.find(Code.TIMEOUT, Stage.COMMAND, f"the run did not end in {options.timeout:g} s")
    return report


def hold(
    dialect: type[C],
    options: PromiseOptions,
    facts: F,
    talk: Callable[[C, Any, Any], None],
    promises: Callable[[Any], Iterable[Promise]] = lambda options: (),
    afterwards: Callable[[Any, Report[Any], Deadline], None] = lambda options, report, deadline: None,
) -> Report[F]:
    """Hold a conversation within one deadline, and report: `talk(conversation, options, facts)`.

    `promises` gives the protocol's own, beside those of all; `afterwards` looks, with the connections closed, at what
    was heard. Raises `UsageError` before anything is connected when an option cannot be used.
    """
    options.prepare()
    wanted = [*of_all(options), *promises(options)]
    report = new_report(options, facts)
    started = time.monotonic()
    deadline = Deadline(options.timeout)
    secrets: set[str] = set()
    if options.all_addresses:
        with dialect(report, options, deadline, None) as resolving:
            candidates = resolving.resolve()
            refused = False
            for place, candidate in enumerate(candidates):
                part = report.blank()
                part.address = candidate.ip
                share = Deadline(max(deadline.left(), 0.0) / (len(candidates) - place))
                report.addresses.append(part)
                visit = _Visit(dialect, part, options, share, [candidate], login_refused=refused)
                secrets |= visit.hold(talk, wanted, afterwards)
                refused = refused or (part.facts.login == "refused" and not options.expect_login_refused)
            report.gather()
    else:
        secrets |= _Visit(dialect, report, options, deadline, None).hold(talk, wanted, afterwards)
    report.elapsed = time.monotonic() - started
    # Last, so that nothing that a server says, be it in a certificate, can carry a secret out of here.
    report.clean(Blotter(secrets))
    return report


class _Visit(Generic[C]):
    """All connections to one address, or to the first of several that answers."""

    def __init__(
        self,
        dialect: type[C],
        report: Report[Any],
        options: PromiseOptions,
        deadline: Deadline,
        candidates: list[Candidate] | None,
        login_refused: bool = False,
    ) -> None:
        self._dialect = dialect
        self._report = report
        self._options = options
        self._deadline = deadline
        self._candidates = candidates
        self._login_refused = login_refused
        self._secrets = set(options.secrets)
        self._peer: tls.Peer | None = None

    def hold(
        self,
        talk: Callable[[C, Any, Any], None],
        promises: Iterable[Promise],
        afterwards: Callable[[Any, Report[Any], Deadline], None],
    ) -> set[str]:
        """Talk, see whether the promises are kept, judge the certificate. Returns what must not be shown."""
        report, options = self._report, self._options
        started = time.monotonic()
        context = None if options.tls == "none" else options.contexts.client(options)
        with self._connection(report, context) as conversation:
            talk(conversation, options, report.facts)
        if any(problem.code in CERTIFICATE_CODES for problem in report.problems) and self._deadline.left() > 0:
            self._look_again(talk)
        had_enough = any(problem.code in _HAD_ENOUGH for problem in report.problems)
        if conversation.ended_at not in _NOT_REACHED and not had_enough:
            for promise in promises:
                self._try(promise)
            afterwards(options, report, self._deadline)
        report.elapsed = time.monotonic() - started
        # Late, since reading a certificate costs time (80 ms to import cryptography) that is not the server's.
        if self._peer is not None:
            path = certificate.read(self._peer, report, options.contexts.certificates)
            if options.validate_certs:
                self._judge(path)
        return self._secrets

    @contextmanager
    def _connection(self, report: Report[Any], context: Any, inspecting: bool = False) -> Iterator[C]:
        conversation = self._dialect(
            report, self._options, self._deadline, context, self._candidates, inspecting=inspecting
        )
        conversation.login_refused = self._login_refused
        try:
            with conversation:
                yield conversation
        finally:
            # Whatever comes next goes to the very address that answered.
            self._candidates = conversation.candidates
            self._secrets |= conversation.secrets
            self._peer = self._peer or conversation.peer

    def _look_again(self, talk: Callable[[C, Any, Any], None]) -> None:
        """What else can be learned behind a bad certificate: its facts, and the conversation up to a login."""
        report, second = self._report, self._report.blank()
        with self._connection(second, self._options.contexts.client(self._options, verify=False), True) as conversation:
            talk(conversation, self._options, second.facts)
        report.transcript += [
            "=== a second connection, without verification, to learn the rest",
            # What befalls it where the first came through is no finding about the service.
            *(line.replace("***", "===", 1) if line.startswith("***") else line for line in second.transcript),
        ]
        report.notes += second.notes
        if second.tls.version is None:
            return
        report.facts, report.tls = second.facts, replace(second.tls, verify_error=report.tls.verify_error)
        known = {(problem.code, problem.stage) for problem in report.problems}
        report.problems += [problem for problem in second.problems if (problem.code, problem.stage) not in known]
        for stage, seconds in second.timings.items():
            report.timings.setdefault(stage, seconds)

    def _try(self, promise: Promise) -> None:
        """See with a connection of its own whether a promise is kept."""
        report, own = self._report, self._report.blank()
        if promise.needs_tls and report.tls.version is None:
            return  # There is a finding for that already.
        if promise.needs_login and report.facts.login != "accepted":
            return  # As above.
        broken: list[str] = []
        peer, self._peer = self._peer, None
        with self._connection(own, promise.context) as conversation:
            promise.attempt(conversation, broken)
        self._peer = peer
        report.transcript += [f"=== another connection: {promise.aim}", *own.transcript]
        for words in broken:
            report.transcript.append(f"*** {words}")
            report.find(promise.code, promise.stage, words)
        known = {problem.code for problem in report.problems}
        for problem in own.problems:
            if not broken and not promise.is_refusal(problem) and problem.code not in known:
                report.problems.append(replace(problem, message=f"{promise.aim}: {problem.message}"))

    def _judge(self, path: list[Any]) -> None:
        """Add what is wrong with the certificates to the one fault that OpenSSL stopped at."""
        report, options = self._report, self._options
        told: set[Code] = set()
        name = None if report.tls.verified else options.server_name  # OpenSSL has found it, among all that there are
        for fault in certificate.faults(path, report.tls, name):
            if fault.code in told:
                continue
            told.add(fault.code)
            unknown_issuer = fault.code in (Code.CERTIFICATE_CHAIN_INCOMPLETE, Code.CERTIFICATE_UNKNOWN_ISSUER)
            # OpenSSL knows no difference between an issuer that nobody trusts and one that was not sent.
            stopped_at = Code.CERTIFICATE_UNKNOWN_ISSUER if unknown_issuer else fault.code
            place = next((n for n, problem in enumerate(report.problems) if problem.code is stopped_at), None)
            if place is not None:
                problem = report.problems[place]
                chosen = report.states.get(fault.code)
                words = f"{problem.message.rstrip('.')}; {fault.words}"
                report.problems[place] = replace(problem, code=fault.code, message=words, chosen=chosen)
            elif not unknown_issuer:  # which OpenSSL would have stopped at first
                report.find(fault.code, Stage.TLS, fault.words)
