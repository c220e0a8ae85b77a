# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The body of the modules, in this process, against a server on loopback: on every Python that a node may have."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from ansible.module_utils import basic
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.options import declarations
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.pop3 import Pop3Options
from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.smtp import SmtpOptions
from ansible_collections.mailprobe.checks.plugins.module_utils._module import argument_spec
from ansible_collections.mailprobe.checks.plugins.modules import pop3, smtp


class Server:
    """Says a greeting, answers every line but QUIT with the same words, and keeps what it heard."""

    def __init__(self, greeting: str, answer: str) -> None:
        self.greeting, self.answer = greeting, answer
        self.heard = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *dummy: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        try:
            connection = self._listener.accept()[0]
        except OSError:
            return
        with connection, connection.makefile("rwb") as lines:
            lines.write(self.greeting.encode() + b"\r\n")
            lines.flush()
            for line in lines:
                self.heard.append(line.decode().rstrip())
                lines.write((b"221 bye" if line == b"QUIT\r\n" else self.answer.encode()) + b"\r\n")
                lines.flush()


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a module in this process: its exit code, and the result that it printed."""

    def run(module, check_mode=False, **options):
        arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check_mode}}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        with pytest.raises(SystemExit) as caught:
            module.main()
        return caught.value.code, json.loads(capsys.readouterr().out)

    return run


def test_a_server_that_works_is_no_failure(run):
    with Server("220 mx ESMTP", "250 fine") as server:
        code, result = run(smtp, host="127.0.0.1", port=server.port)
    assert (code, result["state"], result["changed"]) == (0, "ok", False)
    assert result["facts"]["greeting_code"] == 220
    assert server.heard[-1] == "QUIT"


def test_a_server_that_refuses_fails_with_its_own_words(run):
    with Server("554 5.7.1 No, thank you", "250 fine") as server:
        code, result = run(smtp, host="127.0.0.1", port=server.port)
    assert code == 1
    assert result["failed"] is True
    assert "No, thank you" in result["msg"]
    assert result["problems"][0]["stage"] == "greeting"


def test_an_option_that_cannot_be_used_fails_by_its_name_and_connects_to_nobody(run):
    with Server("+OK hello", "+OK") as server:
        code, result = run(pop3, host="127.0.0.1", port=server.port, expect="a\rb")
    assert code == 1
    assert result["msg"].startswith("expect: ")
    assert server.heard == []


def test_in_check_mode_nothing_is_sent(run):
    with Server("220 mx ESMTP", "250 fine") as server:
        options = {"rcpt_to": ["user@example.org"], "send": True}
        code, result = run(smtp, check_mode=True, host="127.0.0.1", port=server.port, **options)
    assert code == 0
    assert "DATA" not in server.heard
    assert result["facts"]["deliveries"] == []


@pytest.mark.parametrize("options", [SmtpOptions, Pop3Options])
def test_all_secrets_and_nothing_else_is_kept_from_the_log(options):
    spec = argument_spec(options)
    secrets = {declared.name for declared in declarations(options) if declared.secret}
    assert {"password", "token"} <= secrets
    assert {name for name, argument in spec.items() if argument["no_log"]} == secrets
