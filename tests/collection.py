"""The collection as users get it: built, installed in a directory of its own, and run on a node with only Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .canary import keep
from .running import REPOSITORY

SOURCE = REPOSITORY / "ansible_collection"
NAME = Path("ansible_collections") / "mailprobe" / "checks"


GET_PIP = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
wanted = [argument for argument in sys.argv[1:] if argument.startswith("pip==")]
subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
"""


class Played(NamedTuple):
    """The results of some tasks, whether they failed or not, and all that was printed."""

    results: list[dict[str, Any]]
    output: str


@dataclass
class Ansible:
    """An installed copy of the built artefact, and Ansible's commands run with it and nothing else."""

    directory: Path
    interpreter: Path
    programs: Path = Path(sys.executable).parent

    @classmethod
    def install(cls, directory: Path, programs: Path | None = None) -> Ansible:
        """Build the collection and install the artefact into a directory, with a node that has no package at all.

        `programs` is where Ansible's commands are, if not beside the Python of the tests.
        """
        venv.create(directory / "node", symlinks=True, with_pip=False)
        made = cls(directory, directory / "node" / "bin" / "python", programs or cls.programs)
        built = made.command("ansible-galaxy", "collection", "build", SOURCE, "--output-path", directory / "dist")
        assert built.returncode == 0, built.stderr
        done = made.command("ansible-galaxy", "collection", "install", made.artefact, "-p", directory, "--no-deps")
        assert done.returncode == 0, done.stderr
        return made

    @property
    def artefact(self) -> Path:
        """What is uploaded to Galaxy."""
        (artefact,) = (self.directory / "dist").iterdir()
        return artefact

    @property
    def installed(self) -> Path:
        return self.directory / NAME

    def command(
        self, *arguments: object, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with environment variables beside those that it needs."""
        environment = {
            **os.environ,
            "HOME": str(self.directory / "home"),
            "PATH": os.pathsep.join([str(self.programs), *other_pythons(), os.environ["PATH"]]),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "LC_ALL": "C.UTF-8",
            **variables,
        }
        done = subprocess.run(
            [*map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True, check=False
        )
        keep(f"{done.stdout}\n{done.stderr}")
        return done

    def test(self, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run ansible-test in the installed collection; `home` is where it keeps its virtual environments."""
        home = home or self.directory / "home"
        # It fetches get-pip from the network, unless that lies in its cache; Python brings its own as ensurepip.
        cache = home / ".ansible" / "test" / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        for version in ("23_1_2", "24_2", "25_2"):
            (cache / f"get_pip_{version}.py").write_text(GET_PIP)
        return self.command("ansible-test", *arguments, "--color", "no", cwd=self.installed, HOME=str(home))

    def play(self, tasks: list[dict[str, Any]], *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run tasks on localhost."""
        return self.playbook([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}], *arguments, **variables)

    def playbook(
        self, book: str | list[dict[str, Any]], *arguments: str, inventory: str = "localhost,", **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run plays, or a playbook of the collection by its name, with what is in an inventory on this machine."""
        if not isinstance(book, str):
            path = self.directory / "playbook.yml"
            path.write_text(json.dumps(book))
            book = str(path)
        # Not in the playbook, of which Ansible shows the lines around a task that failed.
        values = self.directory / "variables.json"
        values.write_text(json.dumps({"ansible_python_interpreter": str(self.interpreter), **variables}))
        return self.command(
            "ansible-playbook",
            f"--inventory={inventory}",
            "--connection=local",
            f"--extra-vars=@{values}",
            *arguments,
            book,
        )

    def run(self, module: str, *tasks: dict[str, Any], arguments: Iterable[str] = (), **variables: str) -> Played:
        """Run a module with the options of each task."""
        path = self.directory / "results.json"
        path.unlink(missing_ok=True)
        names = [f"result_{number}" for number in range(len(tasks))]
        kept = {"content": f"{{{{ [{', '.join(names)}] | to_json }}}}", "dest": str(path), "mode": "0600"}
        done = self.play(
            [
                *(
                    {f"mailprobe.checks.{module}": options, "register": name, "ignore_errors": True}
                    for name, options in zip(names, tasks, strict=True)
                ),
                {"ansible.builtin.copy": kept, "check_mode": False},
            ],
            *arguments,
            **variables,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return Played(json.loads(path.read_text()), done.stdout + done.stderr)

    def result(self, module: str, *arguments: str, **options: object) -> dict[str, Any]:
        """The result of one task, whether it failed or not."""
        return self.run(module, options, arguments=arguments).results[0]


def other_pythons() -> list[str]:
    """Directories of other Pythons, for ansible-test; pyenv's shims alone do not resolve."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(path) for path in sorted(root.glob("3.*/bin"))]


@pytest.fixture(scope="session")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """The installed collection."""
    return Ansible.install(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python package, as it is installed on a monitoring host."""
    # Of a copy: setuptools leaves its build directory in the source, and takes what is in there for new.
    source = tmp_path_factory.mktemp("source") / "mailprobe"
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(".*", "build", "tests", "ansible_collection"))
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory)]
    subprocess.run([*build, str(source)], check=True)
    (path,) = directory.iterdir()
    return path
