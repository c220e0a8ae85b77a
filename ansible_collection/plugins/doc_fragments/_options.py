# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of each probe's options, derived from their declaration when a document is made."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.families import TlsOptions
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.imap import ImapOptions
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.options import spell
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.pop3 import Pop3Options
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.sieve import SieveOptions
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.smtp import SmtpOptions
from ansible_collections.mailprobe.checks.plugins.module_utils._module import all_declarations, argument_spec


def documentation(options: type[TlsOptions]) -> str:
    """The `options` part of a module's documentation; JSON is YAML."""
    documented: dict[str, t.Any] = {}
    for name, argument in argument_spec(options).items():
        documented[name] = {key: value for key, value in argument.items() if key != "no_log"}
    for declared in all_declarations(options):
        words = [spell(declared.help, lambda name: f"O({name})")]
        if declared.effect:
            words.append("In check mode it is left out.")
        if declared.name == "port":
            words.append(_usual_ports(options))
        documented[declared.name]["description"] = words
    return json.dumps({"options": documented})


def _usual_ports(options: type[TlsOptions]) -> str:
    usual, implicit = options.PORTS["none"], options.PORTS["implicit"]
    cases = [f"V({usual})"]
    if implicit != usual:
        cases.append(f"V({implicit}) with O(tls=implicit)")
    if options is SmtpOptions:
        cases += ["V(587) for a login with O(tls=starttls)", "V(24) with O(lmtp=true)"]
    return f"That is {', '.join(cases)}."


class ModuleDocFragment:
    """One section a probe, named as its module."""

    # Annotated, because ansible-test's yamllint takes every plain assignment here for a literal text.
    IMAP: str = documentation(ImapOptions)
    POP3: str = documentation(Pop3Options)
    SIEVE: str = documentation(SieveOptions)
    SMTP: str = documentation(SmtpOptions)
