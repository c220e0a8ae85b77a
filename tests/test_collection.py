"""The Ansible collection as users get it: built, installed, documented, and run on a node with nothing but Python."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailprobe.report import Report
from mailprobe.smtp import SmtpFacts
from mailprobe.version import __version__

from .conftest import CANARY
from .running import REPOSITORY
from .scripted import Scripted
from .servers import AWKWARD_USER
from .servers.certificates import CertificateAuthority
from .servers.postfix import Postfix

pytestmark = pytest.mark.collection

SOURCE = REPOSITORY / "ansible_collection"
CORE = REPOSITORY / "plugins" / "mailprobe"
NAME = Path("ansible_collections") / "mailprobe" / "checks"


@dataclass
class Ansible:
    """An installed copy of the built artefact, and Ansible's commands run with it and nothing else."""

    directory: Path
    interpreter: Path

    @property
    def installed(self) -> Path:
        return self.directory / NAME

    def command(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HOME": str(self.directory / "home"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *other_pythons(), os.environ["PATH"]]),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "LC_ALL": "C.UTF-8",
        }
        return subprocess.run(
            [*map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True, check=False
        )

    def play(self, tasks: list[dict[str, Any]], *arguments: str) -> subprocess.CompletedProcess[str]:
        playbook = self.directory / "playbook.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        return self.command(
            "ansible-playbook",
            "--inventory=localhost,",
            "--connection=local",
            f"--extra-vars=ansible_python_interpreter={self.interpreter}",
            *arguments,
            playbook,
        )

    def smtp(self, *arguments: str, **options: object) -> dict[str, Any]:
        """The result of one task, whether it failed or not."""
        result = self.directory / "result.json"
        result.unlink(missing_ok=True)
        done = self.play(
            [
                {"mailprobe.checks.smtp": options, "register": "result", "ignore_errors": True},
                {
                    "ansible.builtin.copy": {"content": "{{ result | to_json }}", "dest": str(result), "mode": "0600"},
                    "check_mode": False,
                },
            ],
            *arguments,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def other_pythons() -> list[str]:
    """Directories of other Pythons, for ansible-test; pyenv's shims alone do not resolve."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(path) for path in sorted(root.glob("3.*/bin"))]


@pytest.fixture(scope="session")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    directory = tmp_path_factory.mktemp("collection")
    venv.create(directory / "node", symlinks=True, with_pip=False)
    made = Ansible(directory, directory / "node" / "bin" / "python")
    built = made.command("ansible-galaxy", "collection", "build", SOURCE, "--output-path", directory / "dist")
    assert built.returncode == 0, built.stderr
    (artefact,) = (directory / "dist").iterdir()
    done = made.command("ansible-galaxy", "collection", "install", artefact, "-p", directory, "--no-deps")
    assert done.returncode == 0, done.stderr
    return made


def test_every_file_of_the_core_is_linked_and_built(ansible: Ansible) -> None:
    core = {path.name for path in CORE.glob("*.py")}
    linked = SOURCE / "plugins" / "module_utils" / "_mailprobe"
    shipped = ansible.installed / "plugins" / "module_utils" / "_mailprobe"
    assert {path.name for path in linked.iterdir()} == core == {path.name for path in shipped.iterdir()}
    assert all((linked / name).is_symlink() for name in core)
    assert filecmp.cmpfiles(CORE, shipped, core, shallow=False)[0] == sorted(core, key=list(core).index)
    assert not any(path.is_symlink() for path in shipped.iterdir())


def test_collection_and_core_have_one_version(ansible: Ansible) -> None:
    manifest = json.loads((ansible.installed / "MANIFEST.json").read_text())
    assert manifest["collection_info"]["version"] == __version__


def test_every_returned_key_is_documented_and_the_other_way_round() -> None:
    import yaml

    spec = importlib.util.spec_from_file_location("smtp_module_text", SOURCE / "plugins" / "modules" / "smtp.py")
    assert spec is not None
    source = Path(spec.origin or "").read_text()
    text = source.split('RETURN = r"""')[1].split('"""')[0]
    documented = yaml.safe_load(text)
    returned = {"msg": "", "state": "ok", **Report("smtp", "host", 25, SmtpFacts()).to_dict()}
    assert set(documented) == set(returned)
    for key in ("tls", "certificate", "facts"):
        assert set(documented[key]["contains"]) == set(returned[key])
    assert set(documented["timings"]["sample"]) == set(returned["timings"])


def test_the_documentation_shows_the_declared_options(ansible: Ansible) -> None:
    done = ansible.command("ansible-doc", "--json", "mailprobe.checks.smtp")
    options = json.loads(done.stdout)["mailprobe.checks.smtp"]["doc"]["options"]
    assert options["host"]["required"] is True
    assert options["tls"]["choices"] == ["none", "starttls", "implicit"]
    assert options["timeout"]["default"] == 10.0
    assert "O(username)" in options["password"]["description"][0]


def test_a_playbook_passes_on_a_server_that_works(ansible: Ansible, postfix: Postfix, ca: CertificateAuthority) -> None:
    task = {
        "mailprobe.checks.smtp": {
            "host": "localhost",
            "port": postfix.starttls,
            "tls": "starttls",
            "ca_file": str(ca.pem_path),
            "mail_from": "probe@example.org",
            "rcpt_to": ["user@example.test"],
        }
    }
    done = ansible.play([task])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert "failed=0" in done.stdout


def test_a_playbook_fails_on_a_refused_recipient_and_says_where_and_why(ansible: Ansible, postfix: Postfix) -> None:
    task = {"mailprobe.checks.smtp": {"host": "localhost", "port": postfix.plain, "rcpt_to": ["nobody@example.test"]}}
    done = ansible.play([task])
    assert done.returncode == 2
    assert f"localhost:{postfix.plain}, at rcpt: RCPT TO:<nobody@example.test> refused: '550 5.1.1" in done.stdout
    assert "No such user" in done.stdout


def test_the_whole_report_is_returned_on_success_and_failure(ansible: Ansible, postfix: Postfix) -> None:
    good = ansible.smtp(host="localhost", port=postfix.plain)
    bad = ansible.smtp(host="localhost", port=postfix.plain, rcpt_to=["nobody@example.test"])
    keys = set(Report("smtp", "host", 25, SmtpFacts()).to_dict()) | {"state", "msg", "changed", "failed"}
    assert set(good) - {"warnings"} == keys
    assert keys <= set(bad)
    assert (good["state"], good["failed"], good["changed"]) == ("ok", False, False)
    assert (bad["state"], bad["failed"], bad["changed"]) == ("critical", True, False)
    assert bad["problems"][0]["code"] == "recipient-refused"
    assert bad["facts"]["recipients"][0]["code"] == 550
    assert bad["transcript"][-1].startswith("<-  221")


def test_without_cryptography_the_key_is_null_and_a_warning_says_why(
    ansible: Ansible, postfix: Postfix, ca: CertificateAuthority
) -> None:
    found = ansible.smtp(host="localhost", port=postfix.implicit, tls="implicit", ca_file=str(ca.pem_path))
    assert found["state"] == "ok"
    assert found["tls"]["verified"] is True
    assert "localhost" in found["certificate"]["names"]
    assert found["certificate"]["days_left"] > 80
    assert found["certificate"]["key_type"] is None
    assert any("cryptography is not installed" in warning for warning in found["warnings"])


def test_a_refusal_for_now_fails_and_is_a_warning_to_monitoring(ansible: Ansible, postfix: Postfix) -> None:
    found = ansible.smtp(host="localhost", port=postfix.deferring, rcpt_to=["user@example.test"])
    assert (found["failed"], found["state"]) == (True, "warning")
    assert found["problems"][0]["severity"] == "temporary"


def test_check_mode_runs_and_sends_nothing(ansible: Ansible, postfix: Postfix) -> None:
    before = len(postfix.delivered())
    found = ansible.smtp("--check", host="localhost", port=postfix.plain, rcpt_to=["user@example.test"], send=True)
    assert found["state"] == "ok"
    assert found["facts"]["deliveries"] == []
    assert any("check mode: send is left out" in warning for warning in found["warnings"])
    assert len(postfix.delivered()) == before


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"host": "localhost", "rcpt_to": ["a b@example.org"]}, "rcpt_to"),
        ({"host": "localhost", "helo": "a\r\nQUIT"}, "helo"),
        ({"host": "localhost", "username": "probe", "password": "secret"}, "username"),
        ({"host": "localhost", "command": ["NOOP"], "response": ["("]}, "response"),
        ({"host": "localhost", "tls": "implicit", "ca_file": "/nowhere.pem"}, "ca_file"),
        ({"host": "localhost", "port": 0}, "port"),
        ({"host": "localhost", "send": True}, "send"),
    ],
)
def test_a_wrong_option_fails_by_name_before_anything_connects(
    ansible: Ansible, options: dict[str, Any], name: str
) -> None:
    with Scripted("S: 220 hello") as server:
        found = ansible.smtp(**{"port": server.port, **options})
    assert found["failed"] is True
    assert found["msg"].startswith(f"{name}: ")
    assert found["problems"] == []
    assert server.connections == 0


def test_a_login_works_and_the_password_is_nowhere(
    ansible: Ansible, postfix: Postfix, ca: CertificateAuthority
) -> None:
    done = ansible.play(
        [
            {
                "mailprobe.checks.smtp": {
                    "host": "localhost",
                    "port": postfix.submission,
                    "tls": "starttls",
                    "ca_file": str(ca.pem_path),
                    "username": AWKWARD_USER.name,
                    "password": AWKWARD_USER.password,
                    "mechanism": "PLAIN",
                },
            }
        ],
        "-vvv",
    )
    assert done.returncode == 0, done.stdout
    assert AWKWARD_USER.password not in done.stdout
    assert CANARY not in done.stdout


GET_PIP = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
wanted = [argument for argument in sys.argv[1:] if argument.startswith("pip==")]
subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
"""


def test_ansible_test_sanity_passes_on_the_installed_artefact(ansible: Ansible) -> None:
    # ansible-test fetches get-pip from the network, unless it lies in its cache; Python brings its own as ensurepip.
    cache = ansible.directory / "home" / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True)
    for version in ("23_1_2", "24_2", "25_2"):
        (cache / f"get_pip_{version}.py").write_text(GET_PIP)
    done = ansible.command("ansible-test", "sanity", "--requirements", "--color", "no", cwd=ansible.installed)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert 'Running sanity test "validate-modules"' in done.stdout + done.stderr
    assert "All targets skipped" not in done.stdout + done.stderr
