"""The roles and playbooks of the collection, run from the built and installed artefact against real servers."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailprobe.version import __version__

from .canary import CANARY
from .collection import SOURCE, Ansible
from .health_role import documented, generated
from .scripted import Scripted
from .servers import AWKWARD_USER, free_port
from .servers.certificates import CertificateAuthority
from .servers.dovecot import PASSWORD, READER, SIEVE_ACTIVE, Dovecot
from .servers.postfix import Postfix
from .test_collection import MODULES, parsed, spellings

pytestmark = pytest.mark.collection

ROLES = sorted(path.name for path in (SOURCE / "roles").iterdir())


def options_of(role: str) -> dict[str, Any]:
    """The documented variables of a role."""
    specs = parsed((SOURCE / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    found: dict[str, Any] = specs["main"]["options"]
    return found


# Documentation.


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_documented_with_its_default(role: str) -> None:
    documented = options_of(role)
    defaults = parsed((SOURCE / "roles" / role / "defaults" / "main.yml").read_text())
    required = {name for name, option in documented.items() if option.get("required")}
    assert set(documented) == set(defaults) | required
    for name, option in documented.items():
        assert name in required or "default" not in option or option["default"] == defaults[name], name
        assert name in required or "default" in option or "{{" in str(defaults[name]), name


@pytest.mark.parametrize("role", ROLES)
def test_the_variables_in_the_examples_of_a_role_exist(role: str) -> None:
    texts = re.findall(r"```yaml\n(.*?)```", (SOURCE / "roles" / role / "README.md").read_text(), re.DOTALL)
    assert texts
    for text in texts:
        for play in parsed(text):
            for entry in play["roles"]:
                assert entry.pop("role") == f"mailprobe.checks.{role}"
                assert set(entry) <= set(options_of(role))


def test_ansible_shows_the_documentation_of_the_roles(ansible: Ansible) -> None:
    done = ansible.command("ansible-doc", "--type=role", "--json", *(f"mailprobe.checks.{role}" for role in ROLES))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    for role in ROLES:
        assert set(shown[f"mailprobe.checks.{role}"]["entry_points"]["main"]["options"]) == set(options_of(role))


# health


def test_the_role_knows_every_option_of_every_module(ansible: Ansible) -> None:
    """When this fails: python -m tests.health_role"""
    done = ansible.command("ansible-doc", "--json", *(f"mailprobe.checks.{module}" for module in MODULES))
    for path, text in generated(documented(done.stdout)).items():
        assert (SOURCE / path).read_text() == text, path


@pytest.fixture
def good_checks(postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority) -> list[dict[str, Any]]:
    """A check of each protocol, three of them with a login."""
    login = {"host": "localhost", "ca_file": str(ca.pem_path), "password": "{{ secret }}", "tls": "starttls"}
    return [
        {
            "name": "inbound mail",
            "protocol": "smtp",
            "host": "localhost",
            "port": postfix.starttls,
            "tls": "starttls",
            "ca_file": str(ca.pem_path),
            "rcpt_to": ["user@example.test"],
        },
        {**login, "name": "mailboxes", "protocol": "imap", "port": dovecot.imap, "username": READER, "quota": True},
        {**login, "name": "old 'clients', \"too\"", "protocol": "pop3", "port": dovecot.pop3, "username": READER},
        {**login, "name": "filters", "protocol": "sieve", "port": dovecot.sieve, "username": SIEVE_ACTIVE},
    ]


def health(ansible: Ansible, checks: list[dict[str, Any]], *arguments: str, then: Any = (), **variables: Any) -> Any:
    """Run the role, and then some tasks."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "roles": [{"role": "mailprobe.checks.health", "health_checks": checks}],
        "tasks": list(then),
    }
    return ansible.playbook([play], *arguments, **variables)


@pytest.mark.parametrize("parallel", [1, 3])
def test_health_passes_on_servers_that_work_and_returns_their_reports(
    ansible: Ansible, good_checks: list[dict[str, Any]], parallel: int
) -> None:
    judged = {
        "ansible.builtin.assert": {
            "that": [
                "health_failed == []",
                "health_results | length == 4",
                "health_results.mailboxes.facts.quota_storage_percent == 30",
                "health_results['inbound mail'].facts.recipients[0].accepted",
                "health_results.filters.facts.login == 'accepted'",
            ]
        }
    }
    done = health(ansible, good_checks, then=[judged], health_parallel=parallel, secret=PASSWORD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 checks: all is well" in done.stdout
    assert "changed=0" in done.stdout
    # That of the modules, but none of Ansible's about how the role is written.
    assert [line for line in done.stderr.splitlines() if "cryptography" not in line] == [], done.stderr
    assert list((ansible.directory / "home").glob(".ansible_async/*")) == []


@pytest.mark.parametrize("parallel", [pytest.param(1, marks=pytest.mark.gate), 8])
def test_health_names_every_failure_with_the_servers_words_and_a_hint(
    ansible: Ansible, good_checks: list[dict[str, Any]], postfix: Postfix, parallel: int
) -> None:
    refused = {"host": "localhost", "port": postfix.plain, "rcpt_to": ["nobody@example.test"]}
    checks = [
        {"name": "a wrong address", "protocol": "smtp", **refused},
        *good_checks,
        {"name": "nobody there", "protocol": "imap", "host": "127.0.0.1", "port": free_port()},
        {"name": "greylisting", "protocol": "smtp", **refused, "port": postfix.deferring},
        {"name": "our own mistake", "protocol": "pop3", "host": "localhost", "username": "probe"},
    ]
    done = health(ansible, checks, health_parallel=parallel, secret=PASSWORD)
    assert done.returncode == 2
    message = done.stdout.partition("TASK [mailprobe.checks.health : Mail works]")[2]
    assert "4 of 8 checks failed" in message
    assert "a wrong address: localhost:" in message
    assert "at rcpt: RCPT TO:<nobody@example.test> refused: '550 5.1.1" in message
    assert "No such user, relaying denied, or a policy" in message
    assert "nobody there: 127.0.0.1:" in message
    assert "connection refused" in message
    assert "Is the service running" in message
    assert "greylisting: localhost:" in message
    assert "our own mistake: password: " in message
    for check in good_checks:
        assert f"{check['name']}: " not in message


def test_health_has_no_more_checks_under_way_than_it_may(ansible: Ansible) -> None:
    checks = [
        {"name": f"check {number}", "protocol": "smtp", "host": "127.0.0.1", "port": free_port()} for number in range(5)
    ]
    done = health(ansible, checks, health_parallel=2)
    batches = re.findall(r"tasks/batch\.yml for localhost => \(item=(.*)\)", done.stdout)
    assert batches == ["check 0, check 1", "check 2, check 3", "check 4"]
    assert "5 of 5 checks failed" in done.stdout


UNTIL_THE_SECOND = """\
S: 421 4.3.2 not yet
--- next connection ---
S: 220 mx.example.org ESMTP
== any
"""
AT_ONCE = """\
S: 220 mx.example.org ESMTP
== any
"""


@pytest.mark.parametrize("parallel", [pytest.param(1, marks=pytest.mark.gate), 8])
def test_health_asks_again_only_those_that_failed(ansible: Ansible, parallel: int) -> None:
    with Scripted(UNTIL_THE_SECOND) as late, Scripted(AT_ONCE) as early:
        checks = [
            {"name": name, "protocol": "smtp", "host": "127.0.0.1", "port": server.port}
            for name, server in (("late", late), ("early", early))
        ]
        done = health(ansible, checks, health_parallel=parallel, health_retries=5, health_delay=0)
    assert done.returncode == 0, done.stdout
    assert (late.connections, early.connections) == (2, 1)


def test_health_gives_up_after_the_last_repetition(ansible: Ansible) -> None:
    with Scripted("S: 421 4.3.2 not yet") as server:
        checks = [{"name": "never", "protocol": "smtp", "host": "127.0.0.1", "port": server.port}]
        done = health(ansible, checks, health_retries=2, health_delay=1)
    assert done.returncode == 2
    assert server.connections == 3
    assert "never: 127.0.0.1" in done.stdout


def test_health_only_looks_when_a_failure_shall_not_fail(ansible: Ansible) -> None:
    checks = [{"name": "gone", "protocol": "smtp", "host": "127.0.0.1", "port": free_port()}]
    judged = {
        "ansible.builtin.assert": {
            "that": ["health_failed == ['gone']", "health_results.gone.problems[0].code == 'connection-refused'"]
        }
    }
    done = health(ansible, checks, then=[judged], health_fail=False)
    assert done.returncode == 0, done.stdout


def test_health_writes_a_summary_that_is_whole_and_private(
    ansible: Ansible, good_checks: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "summary.json"
    gone = {"name": "gone", "protocol": "smtp", "host": "127.0.0.1", "port": free_port()}
    done = health(ansible, [*good_checks, gone], health_summary_path=str(path), secret=PASSWORD)
    assert done.returncode == 2  # a summary is written of failures, too
    assert path.stat().st_mode & 0o777 == 0o640
    summary = json.loads(path.read_text())
    assert (summary["host"], summary["checked"], summary["failed"]) == ("localhost", 5, 1)
    checks = {check["name"]: check for check in summary["checks"]}
    assert checks["gone"]["failed"] is True
    assert checks["gone"]["problems"][0]["code"] == "connection-refused"
    assert checks["mailboxes"]["failed"] is False
    assert checks["mailboxes"]["facts"]["folders"][0]["folder"] == "INBOX"
    assert "invocation" not in checks["mailboxes"]


def test_health_in_check_mode_asks_and_leaves_nothing_behind(
    ansible: Ansible, good_checks: list[dict[str, Any]], postfix: Postfix, tmp_path: Path
) -> None:
    path = tmp_path / "summary.json"
    before = len(postfix.delivered())
    good_checks[0]["send"] = True
    gone = {"name": "gone", "protocol": "smtp", "host": "127.0.0.1", "port": free_port()}
    done = health(ansible, [*good_checks, gone], "--check", health_summary_path=str(path), secret=PASSWORD)
    assert done.returncode == 2
    assert "1 of 5 checks failed" in done.stdout
    assert "check mode: send is left out" in done.stderr
    assert not path.exists()
    assert len(postfix.delivered()) == before


@pytest.mark.parametrize("parallel", [pytest.param(1, marks=pytest.mark.gate), 8])
def test_health_shows_no_password_however_much_it_says(
    ansible: Ansible, postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, parallel: int
) -> None:
    ports = {"imap": dovecot.imap, "pop3": dovecot.pop3, "sieve": dovecot.sieve, "smtp": postfix.submission}
    login = {"host": "localhost", "username": AWKWARD_USER.name, "mechanism": "PLAIN"}
    checks = [
        {"name": f"{words} {protocol}", "protocol": protocol, "port": port, **login, "password": f"{{{{ {words} }}}}"}
        for protocol, port in ports.items()
        for words in ("good", "bad")
    ]
    path = tmp_path / "summary.json"
    done = health(
        ansible,
        checks,
        "-vvvv",
        "--diff",
        health_parallel=parallel,
        health_defaults={"tls": "starttls", "ca_file": str(ca.pem_path)},
        health_summary_path=str(path),
        good=AWKWARD_USER.password,
        bad=CANARY,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 2
    assert "4 of 8 checks failed" in output
    assert "bad imap: localhost:" in output
    assert "Wrong user name or password" in output
    for password in (AWKWARD_USER.password, CANARY):
        for spelling in spellings(password, AWKWARD_USER.name):
            assert spelling not in output
            assert spelling not in path.read_text()


def test_health_refuses_what_cannot_be_run_before_anything_connects(ansible: Ansible) -> None:
    with Scripted("S: 220 hello") as server:
        good = {"name": "good", "protocol": "smtp", "host": "127.0.0.1", "port": server.port}
        checks = [
            good,
            good,
            {**good, "name": "typo", "rcptto": ["user@example.test"]},
            {**good, "name": "of another protocol", "folder": ["INBOX"]},
            {**good, "name": "unknown protocol", "protocol": "gopher"},
            {**good, "name": "no protocol", "protocol": None},
            {"protocol": "smtp", "host": "127.0.0.1"},
            {**good, "name": ["no", "text"]},
        ]
        done = health(ansible, checks, health_parallel=0, health_defaults={"tmeout": 5})
    assert done.returncode == 2
    for mistake in (
        "health_parallel: must be 1 or more",
        "health_defaults: no module has an option tmeout",
        "health_checks, entry 1 (good): another entry has this name, too",
        "health_checks, entry 3 (typo): smtp has no option rcptto",
        "health_checks, entry 4 (of another protocol): smtp has no option folder",
        "health_checks, entry 5 (unknown protocol): protocol must be one of imap, pop3, sieve, smtp",
        "health_checks, entry 6 (no protocol): protocol must be one of",
        "health_checks, entry 7: name must be a text",
    ):
        assert mistake in done.stdout
    assert server.connections == 0


def test_health_without_checks_says_which_variable_is_missing(ansible: Ansible) -> None:
    done = ansible.play([{"ansible.builtin.include_role": {"name": "mailprobe.checks.health"}}])
    assert done.returncode == 2
    assert "missing required arguments: health_checks" in done.stdout


def test_health_takes_no_checks_at_all_for_well(ansible: Ansible) -> None:
    done = health(ansible, [])
    assert done.returncode == 0, done.stdout
    assert "0 checks: all is well" in done.stdout


def test_a_servers_words_are_no_template(ansible: Ansible, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    words = "{{ 7 * 191 }} {% raw %} {{ lookup('ansible.builtin.pipe', 'echo run') }}"
    with Scripted(f"S: 554 5.7.1 {words}") as server:
        checks = [
            {"name": name, "protocol": "smtp", "host": "127.0.0.1", "port": server.port} for name in ("one", "two")
        ]
        done = health(ansible, checks, health_summary_path=str(path), health_retries=1, health_delay=0)
    assert done.returncode == 2
    assert "1337" not in done.stdout
    assert words in done.stdout
    assert words in json.loads(path.read_text())["checks"][0]["problems"][0]["message"]


def test_defaults_go_to_the_modules_that_have_the_option(ansible: Ansible, dovecot: Dovecot, postfix: Postfix) -> None:
    checks = [
        {"name": "mailboxes", "protocol": "imap", "port": dovecot.imap},
        {"name": "inbound mail", "protocol": "smtp", "port": postfix.plain, "family": "any", "host": "127.0.0.1"},
    ]
    defaults = {"host": "localhost", "helo": "me.example.org", "family": "ipv4"}
    judged = {
        "ansible.builtin.assert": {
            "that": [
                "health_results.mailboxes.host == 'localhost'",
                "health_results.mailboxes.address == '127.0.0.1'",
                "health_results['inbound mail'].host == '127.0.0.1'",
                "health_results['inbound mail'].transcript | join | regex_search('EHLO me.example.org') is not none",
            ]
        }
    }
    done = health(ansible, checks, then=[judged], health_defaults=defaults)
    assert done.returncode == 0, done.stdout
    assert "2 checks: all is well" in done.stdout


@pytest.mark.gate
def test_health_asks_for_several_hosts_from_one(ansible: Ansible, dovecot: Dovecot, tmp_path: Path) -> None:
    play = {
        "hosts": "all",
        "gather_facts": False,
        "roles": [{"role": "mailprobe.checks.health"}],
        "vars": {
            "health_checks": [
                {"name": "mailboxes", "protocol": "imap", "host": "localhost", "port": "{{ imap_port }}"},
                {"name": "mailboxes by POP3", "protocol": "pop3", "host": "localhost", "port": dovecot.pop3},
            ],
            "health_delegate_to": "localhost",
            "health_summary_path": f"{tmp_path}/{{{{ inventory_hostname }}}}.json",
        },
    }
    inventory = tmp_path / "inventory.ini"
    inventory.write_text(f"good imap_port={dovecot.imap}\nbad imap_port={free_port()}\n")
    done = ansible.playbook([play], inventory=str(inventory))
    assert done.returncode == 2
    good, bad = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("good", "bad"))
    assert (good["host"], good["failed"]) == ("good", 0)
    assert (bad["host"], bad["failed"]) == ("bad", 1)


def test_health_says_in_one_line_that_there_is_no_report_command(ansible: Ansible, tmp_path: Path) -> None:
    with Scripted("S: 220 hello") as server:
        checks = [{"name": "good", "protocol": "smtp", "host": "127.0.0.1", "port": server.port}]
        done = health(ansible, checks, health_report_path=str(tmp_path / "r.html"), health_report_command="/nowhere")
    assert done.returncode == 2
    assert "health_report_path: localhost cannot run '/nowhere report' (" in done.stdout
    assert "there is none, or it says nothing" in done.stdout
    assert "Install the Python package mailprobe[report] there" in done.stdout
    assert server.connections == 0


# The report command, with a note of what it was called with.
REPORT = """\
#!/bin/sh
printf '%s\\n' "$*" >>{log}
exec {python} -m nagios_checks.cli "$@"
"""


def test_health_gives_the_checks_to_the_report_command_and_shows_no_password_in_its_arguments(
    ansible: Ansible, dovecot: Dovecot, tmp_path: Path
) -> None:
    command = tmp_path / "mailprobe"
    log = tmp_path / "arguments"
    command.write_text(REPORT.format(log=shlex.quote(str(log)), python=shlex.quote(sys.executable)))
    command.chmod(0o755)
    path = tmp_path / "report.html"
    check = {
        "name": "mailboxes",
        "protocol": "imap",
        "host": "localhost",
        "port": dovecot.imap,
        "username": READER,
        "password": CANARY,
        "allow_plaintext_login": True,
        "expect_login_refused": True,
        "max_seconds": 60,
    }
    arguments = {"health_report_path": str(path), "health_report_command": str(command)}
    done = health(ansible, [check], "-vvvv", health_defaults={"timeout": 3}, **arguments)
    assert done.returncode == 0, done.stdout
    assert log.read_text().splitlines()[-1] == f"report /dev/stdin --format html --output {path} --exit-zero"
    page = path.read_text()
    assert "mailboxes" in page
    assert "login refused, as it must be" in page
    for spelling in spellings(CANARY, READER):
        assert spelling not in page + log.read_text() + done.stdout + done.stderr


# monitoring


DEFINITIONS = {
    "defaults": {"timeout": 10},
    "checks": [
        {
            "name": "ünbound: 'mail'",
            "protocol": "smtp",
            "host": "mx1.example.org",
            "tls": "implicit",
            "username": "probe",
            "password": CANARY,
        }
    ],
}


class Host:
    """A monitoring host: all its files are in one directory, and whoever runs the tests is its user."""

    def __init__(self, ansible: Ansible, root: Path, package: str) -> None:
        self.ansible = ansible
        self.root = root
        self.venv = root / "a venv"
        self.config = root / "etc" / "checks.yaml"
        self.state = root / "100%"
        self.units = root / "units"
        self.units.mkdir()
        self.package = package

    def set_up(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run the role."""
        owned = {
            "monitoring_package": self.package,
            "monitoring_pip_arguments": ["--no-deps", "--no-index"],
            "monitoring_python": sys.executable,
            "monitoring_venv": str(self.venv),
            "monitoring_user": pwd.getpwuid(os.getuid()).pw_name,
            "monitoring_group": grp.getgrgid(os.getgid()).gr_name,
            "monitoring_create_user": False,
            "monitoring_check_config": False,
            "monitoring_config_path": str(self.config),
            "monitoring_state_directory": str(self.state),
            "monitoring_systemd_directory": str(self.units),
            "monitoring_systemd_manage": False,
            "monitoring_cron_path": str(self.root / "cron"),
            "monitoring_config": DEFINITIONS,
        }
        role = {"role": "mailprobe.checks.monitoring"}
        play = {"hosts": "localhost", "gather_facts": False, "roles": [role]}
        return self.ansible.playbook([play], *arguments, **{**owned, **variables})

    def files(self) -> dict[str, tuple[int, int]]:
        """When each file was written, and its mode; without what Python compiles when it likes."""
        found = (path for path in self.root.rglob("*") if "__pycache__" not in path.parts)
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in found if not path.is_dir()}


@pytest.fixture
def host(ansible: Ansible, wheel: Path, tmp_path: Path) -> Host:
    return Host(ansible, tmp_path, str(wheel))


def recap(done: subprocess.CompletedProcess[str]) -> str:
    """The numbers of the only host."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.partition("PLAY RECAP")[2]


def test_monitoring_is_set_up_once_and_check_mode_is_right_before_and_after(host: Host) -> None:
    before = host.set_up("--check", "--diff")
    assert "changed=0" not in recap(before)
    assert host.files() == {}

    first = host.set_up("--diff", "-vvv")
    assert "changed=0" not in recap(first)
    installed = subprocess.run([host.venv / "bin" / "mailprobe", "--version"], capture_output=True, text=True)
    assert installed.stdout == f"mailprobe {__version__}\n"
    assert parsed(host.config.read_text()) == DEFINITIONS
    assert host.config.stat().st_mode & 0o777 == 0o640
    assert host.state.stat().st_mode & 0o777 == 0o750
    for spelling in spellings(CANARY):
        assert spelling not in before.stdout + first.stdout + first.stderr

    files = host.files()
    assert "changed=0" in recap(host.set_up("--check"))
    assert "changed=0" in recap(host.set_up())
    assert host.files() == files


@pytest.mark.gate
def test_monitoring_installs_again_what_has_changed(host: Host, wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / wheel.name
    shutil.copy(wheel, copy)
    host.package = f"{copy}[report]"
    assert "changed=0" not in recap(host.set_up())
    command = host.venv / "bin" / "mailprobe"
    command.unlink()
    with zipfile.ZipFile(copy, "a") as archive:
        archive.comment = b"another one"
    assert "changed=1" not in recap(host.set_up("--check"))
    assert "changed=2" in recap(host.set_up())
    assert command.exists()
    assert "changed=0" in recap(host.set_up())


@pytest.mark.gate
def test_systemd_and_cron_run_the_report_with_definitions_that_it_accepts(host: Host) -> None:
    recap(host.set_up(monitoring_calendar="Mon..Fri *-*-* 08:00:00"))
    service = (host.units / "mailprobe-report.service").read_text()
    (start,) = (line for line in service.splitlines() if line.startswith("ExecStart="))
    state = str(host.state).replace("%", "%%")
    assert start.startswith(f'ExecStart="{host.venv}/bin/mailprobe" "report" "{host.config}" "--format" "text" ')
    assert f'"--output" "{state}/report.html"' in start
    assert "OnCalendar=Mon..Fri *-*-* 08:00:00" in (host.units / "mailprobe-report.timer").read_text()
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, host.units.iterdir())]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "mailprobe-report" in line]
    assert complaints == []

    # The same by cron; what systemd has stays.
    recap(host.set_up(monitoring_timer="cron", monitoring_cron_schedule="5 * * * *"))
    entry = (host.root / "cron").read_text().splitlines()[-1]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert entry.startswith(f"5 * * * * {user} '{host.venv}/bin/mailprobe' report {host.config} --format text")
    assert f"--output {host.state}/report.html".replace("%", r"\%") in entry
    assert (host.root / "cron").read_text().endswith("\n")

    # Definitions that the report does not accept do not replace those that are there. What the package needs is where
    # the tests have it, since it was installed without a network.
    (packages,) = (host.venv / "lib").glob("python*/site-packages")
    (packages / "needed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    good = host.config.read_text()
    recap(host.set_up(monitoring_check_config=True))
    bad = {"checks": [{"name": "mx", "protocol": "smtp", "hots": "mx1"}]}
    done = host.set_up(monitoring_check_config=True, monitoring_config=bad)
    assert done.returncode == 2
    assert "checks[0].hots: there is no such option; did you mean host?" in done.stdout
    assert host.config.read_text() == good


# Where the role and useradd write, of its own for a command: what is written there is in a directory of the test's.
ELSEWHERE = """\
#!/bin/sh
[ -n "$ELSEWHERE" ] || ELSEWHERE=1 exec unshare --mount "$0" "$@"
for place in {places}; do
    layers="lowerdir=/$place,upperdir={root}/upper/$place,workdir={root}/work/$place"
    mount -t overlay -o "$layers" overlay "/$place" || exit
done
exec "$@"
"""
PLACES = ("etc", "opt", "var/lib", "var/log")
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A command that runs another as root of a machine that is like this one, but is not changed by it."""
    command = tmp_path / "elsewhere"
    command.write_text(ELSEWHERE.format(places=" ".join(PLACES), root=tmp_path))
    command.chmod(0o755)
    for place in PLACES:
        for part in ("upper", "work"):
            (tmp_path / part / place).mkdir(parents=True)
    usable = [str(command), SYSTEM_PYTHON, "-c", "import ensurepip, venv"]
    if os.getuid() != 0 or subprocess.run(usable, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"needs root, overlays, and {SYSTEM_PYTHON} with venv")
    return command


@pytest.mark.gate
def test_monitoring_with_its_defaults_makes_a_user_who_runs_the_report_and_nobody_else_reads_it(
    ansible: Ansible, wheel: Path, elsewhere: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    of_this_machine = Path("/etc/passwd").read_bytes()
    playbook = tmp_path / "bin" / "ansible-playbook"
    playbook.parent.mkdir()
    playbook.write_text(f'#!/bin/sh\nexec {elsewhere} {ansible.programs}/ansible-playbook "$@"\n')
    playbook.chmod(0o755)
    root = replace(ansible, programs=playbook.parent)

    def set_up(*arguments: str, **variables: str) -> str:
        role = {
            "role": "mailprobe.checks.monitoring",
            "monitoring_package": f"{wheel}[report]",
            "monitoring_python": SYSTEM_PYTHON,
            "monitoring_systemd_manage": False,  # no systemd runs where the tests do
            "monitoring_config": {
                "checks": [{"name": "inbound", "protocol": "smtp", "host": "127.0.0.1", "port": server.port}]
            },
            **variables,
        }
        return recap(root.playbook([{"hosts": "localhost", "gather_facts": False, "roles": [role]}], *arguments))

    def run_as(user: str, script: str) -> subprocess.CompletedProcess[str]:
        """As systemd and cron do it: with almost no environment."""
        bare = ("env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", script)
        return ansible.command(elsewhere, "runuser", "-u", user, "--", *bare, cwd=Path("/"))

    config, state = (upper / place / "mailprobe" for place in ("etc", "var/lib"))
    report = state / "report.html"
    with Scripted(AT_ONCE) as server:
        assert "changed=0" not in set_up("--check", "--diff")
        assert not [path for path in upper.rglob("*") if path.is_file()]
        assert "changed=0" not in set_up()
        assert "changed=0" in set_up("--check")
        assert "changed=0" in set_up()

        unit = (upper / "etc/systemd/system/mailprobe-report.service").read_text()
        (start,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
        assert "\nUser=mailprobe\nGroup=mailprobe\nUMask=0027\n" in unit
        done = run_as("mailprobe", f"umask 0027; {start}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "inbound" in report.read_text()
        for path in (config / "checks.yaml", report, state / "history.sqlite"):
            for user, status in (("mailprobe", 0), ("nobody", 1)):
                assert run_as(user, f"test -r /{path.relative_to(upper)}").returncode == status, path

        set_up(monitoring_timer="cron")
        entry = (upper / "etc/cron.d/mailprobe").read_text().splitlines()[-1]
        user, command = entry.split(None, 6)[5:]
        report.unlink()
        done = run_as(user, command.replace(r"\%", "%"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # nothing has changed since: no mail
        assert "inbound" in report.read_text()
    assert server.connections == 2

    users = (upper / "etc/passwd").read_text()
    (uid,) = re.findall(r"^mailprobe:x:(\d+):\d+::/var/lib/mailprobe:/usr/sbin/nologin$", users, re.MULTILINE)
    assert 0 < int(uid) < 1000
    assert (report.stat().st_uid, state.stat().st_uid, state.stat().st_mode & 0o777) == (int(uid), int(uid), 0o750)
    definitions = (config / "checks.yaml").stat()
    assert (definitions.st_uid, definitions.st_mode & 0o777) == (0, 0o640)
    assert Path("/etc/passwd").read_bytes() == of_this_machine


def test_monitoring_says_what_is_missing_or_wrong(host: Host) -> None:
    done = host.set_up(monitoring_timer="at", monitoring_config="no dictionary")
    assert done.returncode == 2
    assert "value of monitoring_timer must be one of: systemd, cron, none, got: at" in done.stdout
    assert "monitoring_config" in done.stdout
    assert host.files() == {}


# Playbooks.


@pytest.mark.gate
def test_after_deployment_passes_and_names_what_does_not_work(
    ansible: Ansible, good_checks: list[dict[str, Any]], postfix: Postfix
) -> None:
    book = "mailprobe.checks.after_deployment"
    done = ansible.playbook(book, mail_checks=good_checks, secret=PASSWORD)
    assert done.returncode == 0, done.stdout
    assert "4 checks: all is well" in done.stdout

    bad = {"name": "the postmaster", "protocol": "smtp", "host": "localhost", "port": postfix.plain}
    checks = [*good_checks, {**bad, "rcpt_to": ["nobody@example.test"]}]
    done = ansible.playbook(book, mail_checks=checks, mail_retries=0, secret=PASSWORD)
    assert done.returncode == 2
    assert "1 of 5 checks failed" in done.stdout
    assert "the postmaster: localhost:" in done.stdout


@pytest.mark.gate
def test_a_rolling_restart_waits_for_each_server_and_stops_at_one_that_does_not_answer(
    ansible: Ansible, ca: CertificateAuthority, tmp_path: Path
) -> None:
    servers = [Dovecot(ca) for dummy in range(3)]
    inventory = tmp_path / "inventory.json"
    restarted = tmp_path / "restarted"
    for server in servers:
        server.start()
    try:
        hosts = {
            f"imap{number}": {
                "mail_address": "localhost",
                "mail_imap": {
                    "port": server.imaps,
                    "ca_file": str(ca.pem_path),
                    "username": READER,
                    "password": "{{ secret }}",
                },
                # Dovecot's own reload; the second one goes and does not come back.
                "mail_restart": [
                    "sh",
                    "-c",
                    f"echo {number} >>{restarted}; kill -{'TERM' if number == 1 else 'HUP'} {server.process.pid}",
                ],
            }
            for number, server in enumerate(servers)
        }
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        options = {"inventory": str(inventory), "mail_tries": 3, "mail_delay": 1, "secret": PASSWORD}
        done = ansible.playbook("mailprobe.checks.rolling_restart", **options)
        assert done.returncode == 2
        assert restarted.read_text().split() == ["0", "1"]
        assert "connection refused" in done.stdout
        assert "imap2" not in done.stdout

        done = ansible.playbook("mailprobe.checks.rolling_restart", "--limit=imap0,imap2", **options)
        assert done.returncode == 0, done.stdout
        assert restarted.read_text().split() == ["0", "1", "0", "2"]
    finally:
        for server in servers:
            server.stop()


@pytest.mark.gate
def test_the_survey_of_certificates_shows_the_first_to_expire_on_top(
    ansible: Ansible, postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    good = [
        {"name": "submission", "protocol": "smtp", "port": postfix.submissions, "tls": "implicit"},
        {"name": "mailboxes", "protocol": "imap", "port": dovecot.imaps, "tls": "implicit"},
    ]
    bad = [
        {"name": "expired", "protocol": "smtp", "port": postfix.expired, "tls": "starttls"},
        {"name": "gone", "protocol": "smtp", "port": free_port(), "tls": "starttls"},
    ]
    inventory = tmp_path / "inventory.json"
    hosts = {
        "first": {"mail_services": good, "mail_address": "localhost"},
        "second": {"mail_services": bad, "mail_address": "localhost"},
    }
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    # With cryptography, without which nothing is known of a certificate that is not good.
    options = {
        "inventory": str(inventory),
        "mail_ca_file": str(ca.pem_path),
        "ansible_python_interpreter": sys.executable,
    }
    done = ansible.playbook("mailprobe.checks.certificates", **options)
    assert done.returncode == 2
    table = re.findall(r'"( *[-?\d]+ days .*)"', done.stdout)
    assert [line.split()[2] for line in table] == ["BAD", "BAD", "good", "good"]
    assert [line.split()[-1] for line in table[:2]] == ["gone", "expired"]
    assert {line.split()[-1] for line in table[2:]} == {"submission", "mailboxes"}
    assert f"localhost:{postfix.expired}" in table[1]

    done = ansible.playbook("mailprobe.checks.certificates", "--limit=first", **options)
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r'"( *[-?\d]+ days .*)"', done.stdout)) == 2

    done = ansible.playbook("mailprobe.checks.certificates", "--limit=first", **options, mail_days=365)
    assert done.returncode == 2
