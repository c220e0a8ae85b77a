"""The parts of the role `health` that follow from the modules' options: written by `python -m tests.health_role`.

A task names each option of its module, because Ansible warns of a task whose options come from a variable as a whole.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .collection import SOURCE, Ansible

Options = Mapping[str, Sequence[str]]

ROLE = Path("roles") / "health"
HEAD = """\
---
# Copyright (c) 2026, the mailprobe founders
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Written by `python -m tests.health_role`; do not edit.

"""
TASK = """\
- name: Ask {module}
  mailprobe.checks.{module}:
{options}
  loop: "{{{{ health_batch | select('in', __health_names.{module}) | list }}}}"
  loop_control:
    loop_var: health_name
  vars:
    health_check: "{{{{ health_defaults | combine(__health_by_name[health_name]) }}}}"
  register: __health_{module}
  async: "{{{{ __health_limit if __health_background else 0 }}}}"
  poll: 0
  changed_when: false
  failed_when: false
  delegate_to: "{{{{ health_delegate_to }}}}"
"""
OF_PROTOCOL = "selectattr('protocol', 'equalto', '{module}') | map(attribute='name') | list"
NAMES = '  {module}: "{{{{ health_checks | ' + OF_PROTOCOL + ' }}}}"\n'


def generated(options: Options) -> dict[Path, str]:
    """The files' texts by their place in the collection, for the options of each module."""
    modules = sorted(options)
    tasks = [
        TASK.format(
            module=module,
            options="\n".join(
                f'    {name}: "{{{{ health_check.{name} | default(omit) }}}}"' for name in sorted(options[module])
            ),
        )
        for module in modules
    ]
    lists = "".join(
        f"  {module}:\n" + "".join(f"    - {name}\n" for name in sorted(options[module])) for module in modules
    )
    names = "".join(NAMES.format(module=module) for module in modules)
    started = " + ".join(f"__health_{module}.results" for module in modules)
    variables = (
        f"# The options of each module.\n__health_options:\n{lists}\n"
        f"# The names of the checks by their protocols.\n__health_names:\n{names}\n"
        f"# The results of what was started.\n__health_started: >-\n  {{{{ {started} }}}}\n"
    )
    return {
        ROLE / "tasks" / "ask.yml": HEAD + "\n".join(tasks),
        ROLE / "vars" / "main" / "options.yml": HEAD + variables,
    }


def documented(documents: str) -> dict[str, list[str]]:
    """The options of each module, from what `ansible-doc --json` prints."""
    return {name.rpartition(".")[2]: sorted(found["doc"]["options"]) for name, found in json.loads(documents).items()}


def main() -> None:
    """Write the files for the modules as they are in the source tree."""
    with tempfile.TemporaryDirectory() as directory:
        ansible = Ansible.install(Path(directory))
        modules = sorted(path.stem for path in (SOURCE / "plugins" / "modules").glob("*.py"))
        done = ansible.command("ansible-doc", "--json", *(f"mailprobe.checks.{module}" for module in modules))
    if done.returncode:
        sys.exit(done.stderr)
    for path, text in generated(documented(done.stdout)).items():
        (SOURCE / path).write_text(text)


if __name__ == "__main__":
    main()
