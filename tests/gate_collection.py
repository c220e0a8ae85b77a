"""Everything that Galaxy, Automation Hub and the Ansible community ask of a collection: run by `tests/run collection`.

Not among the other tests, because it takes minutes and wants tools and ansible-cores of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import test_collection_roles as roles
from .collection import NAME, SOURCE, Ansible
from .running import REPOSITORY
from .servers.certificates import CertificateAuthority
from .servers.dovecot import PASSWORD, READER, Dovecot
from .servers.postfix import Postfix

pytestmark = pytest.mark.gate

# What ansible-test makes once for all: its own virtual environments, by the ansible-core.
KEPT = REPOSITORY / "tests" / ".gate"
ENVIRONMENTS = {path.name.rpartition("-")[2]: path for path in (REPOSITORY / "tests").glob(".venv-ansible-*")}
CORES = sorted(ENVIRONMENTS, key=lambda core: [int(part) for part in core.split(".")])
OLDEST_PYTHON = "3.9"


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """The installed collection, with the commands of an ansible-core; outside of git, as ansible-test wants it."""
    return Ansible.install(tmp_path_factory.mktemp(f"core-{request.param}"), ENVIRONMENTS[request.param] / "bin")


def home(ansible: Ansible) -> Path:
    return KEPT / ansible.programs.parent.name


def python_of(core: str) -> str:
    """The Python that an ansible-core runs on, as `3.12`."""
    (found,) = (ENVIRONMENTS[core] / "lib").glob("python3.*")
    return found.name.removeprefix("python")


def passed(done: subprocess.CompletedProcess[str], proof: str = "") -> None:
    """Fail with what a command printed, when it failed or did not do what it should have."""
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-8000:]
    assert proof in output, output[-8000:]
    assert "All targets skipped" not in output


def on_cores(*cores: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("installed", cores, indirect=True)


def test_there_is_an_ansible_core() -> None:
    assert CORES, "tests/run collection makes tests/.venv-ansible-X"


@on_cores(*CORES)
def test_sanity(installed: Ansible) -> None:
    """On the oldest and the newest ansible-core for all Pythons there are, on the others for that of the controller."""
    core = installed.programs.parent.name.rpartition("-")[2]
    pythons = () if core in (CORES[0], CORES[-1]) else ("--python", python_of(core))
    done = installed.test("sanity", "--requirements", *pythons, home=home(installed))
    passed(done, 'Running sanity test "validate-modules"')


def test_no_sanity_test_is_ignored() -> None:
    assert list(SOURCE.glob("tests/sanity/*")) == []


@on_cores(*CORES[:1], *CORES[-1:])
@pytest.mark.parametrize("python", ["oldest", "newest"])
def test_units(installed: Ansible, python: str) -> None:
    """On nodes with the oldest Python that the collection supports, and with that of the controller."""
    version = OLDEST_PYTHON if python == "oldest" else python_of(installed.programs.parent.name.rpartition("-")[2])
    done = installed.test("units", "--venv", "--python", version, "--requirements", home=home(installed))
    passed(done, "6 passed")


@on_cores(*CORES[:1], *CORES[-1:])
@pytest.mark.parametrize("python", ["oldest", "newest"])
def test_integration(
    installed: Ansible, python: str, postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    """Against the servers of the other tests, on nodes with the oldest Python and with that of the controller."""
    version = OLDEST_PYTHON if python == "oldest" else python_of(installed.programs.parent.name.rpartition("-")[2])
    configuration = {
        "mail_host": "localhost",
        "mail_ca_file": str(ca.pem_path),
        "mail_username": READER,
        "mail_password": PASSWORD,
        "mail_ports": {
            "imap": dovecot.imap,
            "pop3": dovecot.pop3,
            "sieve": dovecot.sieve,
            "smtp": postfix.starttls,
        },
    }
    (installed.installed / "tests" / "integration" / "integration_config.yml").write_text(json.dumps(configuration))
    done = installed.test("integration", "--venv", "--python", version, "--requirements", home=home(installed))
    passed(done)
    for target in (SOURCE / "tests" / "integration" / "targets").iterdir():
        assert f"Running {target.name} integration test role" in done.stdout + done.stderr


@on_cores(*CORES[:1], *CORES[-1:])
def test_roles_and_playbooks(
    installed: Ansible,
    postfix: Postfix,
    dovecot: Dovecot,
    ca: CertificateAuthority,
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What the other tests see with one ansible-core holds for the oldest and the newest, too."""
    new = tmp_path_factory.mktemp
    roles.test_a_servers_words_are_no_template(installed, new("words"))
    roles.test_health_asks_again_only_those_that_failed(installed, 8)
    roles.test_health_refuses_what_cannot_be_run_before_anything_connects(installed)
    roles.test_health_shows_no_password_however_much_it_says(installed, postfix, dovecot, ca, new("secrets"), 8)
    roles.test_the_survey_of_certificates_shows_the_first_to_expire_on_top(
        installed, postfix, dovecot, ca, new("survey")
    )
    host = roles.Host(installed, new("host"), str(wheel))
    roles.test_monitoring_is_set_up_once_and_check_mode_is_right_before_and_after(host)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with the core's files in it, where Ansible looks for collections."""
    path = tmp_path_factory.mktemp("tree") / NAME
    shutil.copytree(SOURCE, path, ignore=shutil.ignore_patterns("__pycache__", ".ansible"))
    return path


def in_tree(tree: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(tree.parents[2]),
        "LC_ALL": "C.UTF-8",
        **variables,
    }
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_ansible_lint_in_the_profile_for_production(tree: Path) -> None:
    done = in_tree(tree, "ansible-lint", "--offline", "--profile", "production", "--nocolor")
    passed(done, "Profile 'production' was required, and it passed")
    assert "0 failure(s), 0 warning(s)" in done.stdout + done.stderr


def test_documentation_can_be_published_and_its_references_lead_somewhere(tree: Path) -> None:
    passed(
        in_tree(tree, "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs=all", ".")
    )


def test_the_changelog_is_in_the_format_of_antsibull(tree: Path) -> None:
    passed(in_tree(tree, "antsibull-changelog", "lint"))
    passed(in_tree(tree, "antsibull-changelog", "lint-changelog-yaml", "--strict", "changelogs/changelog.yaml"))


def test_the_changelog_is_made_of_its_data(tree: Path) -> None:
    before = (tree / "CHANGELOG.md").read_text()
    passed(in_tree(tree, "antsibull-changelog", "generate"))
    assert (tree / "CHANGELOG.md").read_text() == before


def test_every_file_has_a_licence(tree: Path, ansible: Ansible) -> None:
    for root in (tree, ansible.installed):
        passed(in_tree(tree, "reuse", "--root", str(root), "lint"), "Congratulations")


IMPORTER = """\
[galaxy-importer]
CHECK_REQUIRED_TAGS=True
RUN_ANSIBLE_DOC=True
RUN_ANSIBLE_LINT=True
RUN_ANSIBLE_TEST=False
RUN_FLAKE8=True
"""


def test_galaxy_would_import_it_without_a_complaint(ansible: Ansible, tmp_path: Path) -> None:
    configuration = tmp_path / "importer.cfg"
    configuration.write_text(IMPORTER)
    # Beside the artefact, where it leaves importer_result.json.
    artefact = tmp_path / ansible.artefact.name
    shutil.copy(ansible.artefact, artefact)
    command = (sys.executable, "-m", "galaxy_importer.main", str(artefact))
    done = in_tree(tmp_path, *command, GALAXY_IMPORTER_CONFIG=str(configuration), HOME=str(tmp_path))
    passed(done, "Importer processing completed successfully")
    complaints = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert complaints == []
