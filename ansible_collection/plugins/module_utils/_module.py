# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The body of every module: options in, the probe, the whole report out."""

from __future__ import annotations

import typing as t
import warnings

from ansible.module_utils.basic import AnsibleModule

from ._mailprobe.options import Declaration, Options, UsageError, declarations, read
from ._mailprobe.report import Facts, Report, Severity

TYPES = {"str": "str", "int": "int", "float": "float", "bool": "bool"}


def argument_spec(options: type[Options]) -> dict[str, t.Any]:
    """The argument_spec, derived from the declaration."""
    return {declared.name: _argument(declared) for declared in declarations(options)}


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


def run(options: type[Options], facts: type[Facts], probe: t.Callable[[t.Any], Report[t.Any]]) -> t.NoReturn:
    """Run a probe as a module: fail when something did not work, and return the whole report either way."""
    # Of a strange certificate or regular expression, Python's warnings would spoil the module's output.
    warnings.simplefilter("ignore")
    module = AnsibleModule(argument_spec=argument_spec(options), supports_check_mode=True)
    given = dict(module.params)
    if module.check_mode:
        _leave_no_trace(module, options, given)
    try:
        report = probe(read(options, given))
    except UsageError as error:
        blank = Report(module._name.rpartition(".")[2], str(given["host"]), given["port"], facts())
        module.fail_json(msg=str(error), **_result(blank))
    for note in report.notes:
        module.warn(note)
    failures = [problem for problem in report.problems if problem.severity is not Severity.FLAW]
    for problem in report.problems:
        if problem not in failures:
            module.warn(f"{report.where}: {problem.message}. {problem.hint}")
    if failures:
        words = (f"{report.where}, at {problem.stage.value}: {problem.message}. {problem.hint}" for problem in failures)
        module.fail_json(msg="\n".join(words), **_result(report))
    module.exit_json(msg=f"{report.where} works", **_result(report))


def _leave_no_trace(module: AnsibleModule, options: type[Options], given: dict[str, t.Any]) -> None:
    """In check mode, leave out what would stay behind on the server, and say so."""
    for declared in declarations(options):
        if declared.effect and given[declared.name]:
            given[declared.name] = False
            module.warn(f"check mode: {declared.name} is left out, so nothing stays behind on the server")


def _result(report: Report[t.Any]) -> dict[str, t.Any]:
    return {"changed": False, "state": report.state, **report.to_dict()}
