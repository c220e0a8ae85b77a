# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The body of every module: options in, the probe, the whole report out."""

from __future__ import annotations

import signal
import socket
import typing as t
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ._mailprobe.certificate import require_cryptography
from ._mailprobe.families import TlsOptions
from ._mailprobe.options import Declaration, MissingPackage, Options, UsageError, declarations, option, read
from ._mailprobe.report import Facts, Problem, Report
from ._mailprobe.run import overrun

# How long after its time limit a run that does not end by itself is ended; a user's regular expression can do that.
OVERRUN_SECONDS = 0.4

TYPES = {"str": "str", "int": "int", "float": "float", "bool": "bool"}


@dataclass(frozen=True)
class Expectations(Options):
    """What a play may let the module judge of what was measured; nothing unless it is given."""

    max_seconds: float | None = option("Fail when the whole run takes longer.", default=None, minimum=0)
    min_certificate_days: int | None = option(
        "Fail when the certificate expires in fewer days, or its expiry is not known. With {validate_certs} false this"
        " needs cryptography.",
        default=None,
        minimum=0,
    )
    warn_certificate_days: int | None = option(
        "Warn when the certificate expires in fewer days. With {validate_certs} false this needs cryptography.",
        default=None,
        minimum=0,
    )

    def check(self, options: TlsOptions) -> None:
        """Raise `UsageError` where nothing will be known of what is to be judged."""
        for name in ("min_certificate_days", "warn_certificate_days"):
            if getattr(self, name) is None:
                continue
            if options.tls == "none":
                raise UsageError(name, "is only known with TLS: set {tls} to starttls or implicit")
            if not options.validate_certs:
                require_cryptography(name)

    def unmet(self, report: Report[t.Any]) -> t.Iterator[str]:
        """What is not as it must be."""
        if self.max_seconds is not None and report.elapsed > self.max_seconds:
            yield f"the run took {report.elapsed:.3f} s, more than {self.max_seconds:g} (max_seconds)"
        if self.min_certificate_days is not None:
            for part in report.addresses or [report]:
                yield from _too_few_days(part, self.min_certificate_days, "min_certificate_days")

    def warned(self, report: Report[t.Any]) -> t.Iterator[str]:
        """What is still as it must be, but not for long."""
        if self.warn_certificate_days is not None:
            for part in report.addresses or [report]:
                yield from _too_few_days(part, self.warn_certificate_days, "warn_certificate_days")


def _too_few_days(report: Report[t.Any], days: int, name: str) -> t.Iterator[str]:
    left = report.certificate.days_left
    at = f" of {report.address}" if report.address else ""
    if left is None:
        yield f"the expiry of the certificate{at} is not known ({name})"
    elif left < days:
        yield f"the certificate{at} expires in {left} days, fewer than {days} ({name})"


def argument_spec(options: type[Options]) -> dict[str, t.Any]:
    """The argument_spec, derived from the declarations."""
    return {declared.name: _argument(declared) for declared in all_declarations(options)}


def all_declarations(options: type[Options]) -> tuple[Declaration, ...]:
    """The options of a probe, and what a play may expect."""
    return (*declarations(options), *declarations(Expectations))


def _argument(declared: Declaration) -> dict[str, t.Any]:
    kind = "path" if declared.path else TYPES[declared.kind]
    argument: dict[str, t.Any] = {"type": "list", "elements": kind} if declared.many else {"type": kind}
    if declared.required:
        argument["required"] = True
    elif declared.default not in (None, ()):
        argument["default"] = list(declared.default) if declared.many else declared.default
    if declared.choices:
        argument["choices"] = list(declared.choices)
    # Said of every option: the module's own guess goes by names, and "password_file" is no secret.
    argument["no_log"] = declared.secret
    return argument


class Module(AnsibleModule):
    """Every failure has every key, also when Ansible itself refuses an option: `until` may look at any of them."""

    def __init__(self, options: type[Options], facts: type[Facts]) -> None:
        self._facts = facts
        super().__init__(argument_spec=argument_spec(options), supports_check_mode=True)

    def fail_json(self, msg: str, **result: t.Any) -> t.NoReturn:
        """Fail, with the report of a run that did not begin where there is no other."""
        host, port = self.params.get("host"), self.params.get("port")
        place = (str(host or ""), port if isinstance(port, int) else None)
        blank = Report(self._name.rpartition(".")[2], *place, self._facts())
        super().fail_json(msg, **{**_result(blank, "unknown", [], healthy=False), **result})


def run(options: type[TlsOptions], facts: type[Facts], probe: t.Callable[[t.Any], Report[t.Any]]) -> t.NoReturn:
    """Run a probe as a module: fail when something did not work, and return the whole report either way."""
    # Of a strange certificate or regular expression, Python's warnings would spoil the module's output.
    warnings.simplefilter("ignore")
    module = Module(options, facts)
    given = dict(module.params)
    if module.check_mode:
        _leave_no_trace(module, options, given)
    expected = {declared.name: given.pop(declared.name) for declared in declarations(Expectations)}
    try:
        expectations = read(Expectations, expected)
        wanted = read(options, given)
        expectations.check(wanted)
        try:
            with _ended_after(given["timeout"] + OVERRUN_SECONDS):
                report = probe(wanted)
        except socket.timeout:  # outside of any stage
            report = overrun(wanted, facts())
    except UsageError as error:
        msg = str(error)
        if isinstance(error, MissingPackage):  # in the words of all of Ansible's modules
            msg = f"{error.option}: {missing_required_lib(error.package)}"
        module.fail_json(msg=msg)
    for note in report.notes:
        module.warn(note)
    failures = [problem for problem in report.problems if problem.fails]
    for problem in report.problems:
        if problem not in failures and problem.state != "ok":
            module.warn(f"{_at(report, problem)}: {problem.message}. {problem.hint}")
    words = [f"{_at(report, each)}, at {each.stage.value}: {each.message}. {each.hint}" for each in failures]
    unmet = list(expectations.unmet(report))
    for warned in expectations.warned(report):
        module.warn(f"{report.where}: {warned}")
    if words or unmet:
        words += [f"{report.where}: {each}" for each in unmet]
        module.fail_json(msg="\n".join(words), **_result(report, report.state, unmet, healthy=False))
    module.exit_json(msg=f"{report.where} works", **_result(report, report.state, unmet, healthy=True))


@contextmanager
def _ended_after(seconds: float) -> t.Iterator[None]:
    """The net below the probe's own deadline: what an alarm interrupts is explained as a timeout of that stage."""

    def ring(*dummy: object) -> t.NoReturn:
        raise socket.timeout(f"the run did not end in {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _leave_no_trace(module: AnsibleModule, options: type[Options], given: dict[str, t.Any]) -> None:
    """In check mode, leave out what would stay behind on the server, and say so."""
    for declared in declarations(options):
        if declared.effect and given[declared.name]:
            given[declared.name] = False
            module.warn(f"check mode: {declared.name} is left out, so nothing stays behind on the server")


def _at(report: Report[t.Any], problem: Problem) -> str:
    return f"{report.where} ({problem.address})" if problem.address else report.where


def _result(report: Report[t.Any], state: str, unmet: list[str], healthy: bool) -> dict[str, t.Any]:
    found = report.to_dict()
    transcript = found.pop("transcript")
    verdict = {"changed": False, "state": state, "healthy": healthy}
    return {**verdict, **found, "unmet": unmet, "transcript": transcript}
