# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules of the collection have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes and requirements."""

    DOCUMENTATION = r"""
options: {}
requirements:
  - Python 3.9 or newer on the host that runs the module; most options need nothing else there.
  - The Python package C(cryptography) on that host adds the certificate's key, and the facts of a certificate that was
    not verified; without it they are null, and a warning says so.
  - The Python package C(dnspython), or C(cryptography), on that host for the options that say so; without it they fail.
notes:
  - Ansible masks every text, and every number, that contains the value of O(password) or O(token); with the password
    V(2), a greeting code of 220 is masked. Use long passwords.
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the report without leaving a trace on the server.
    support: full
    details:
      - In check mode what would stay behind on the server (a test message) is left out, and a warning says so.
  diff_mode:
    description: Returns details on what has changed, or would change, in C(diff) mode.
    support: N/A
    details:
      - The module does not modify the state of any host.
  platform:
    description: Target OS families that can be operated against.
    platforms: posix
    support: full
  action_group:
    description: Use C(group/mailprobe.checks.all) in C(module_defaults) to set defaults for all modules.
    membership:
      - mailprobe.checks.all
    support: full
"""
