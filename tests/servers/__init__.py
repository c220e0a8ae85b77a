"""Real mail servers, started by the tests on loopback, away from everything that is configured on the machine."""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Callable, ClassVar, NamedTuple, Optional, TypeVar

from ..canary import ASCII_CANARY, AWKWARD_CANARY

DOMAIN = "example.test"

# Everywhere these two mailboxes exist in DOMAIN; others are unknown.
MAILBOXES = ("user", "postmaster")

# PATH of an ordinary user lacks the directories where servers are.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

START_SECONDS = 20  # much more than any server needs, for a machine under load
STOP_SECONDS = 5

# A process beside each server ends it with all its children (the process group $0) when the pipe from pytest is closed,
# and that happens in whatever way pytest ends. PR_SET_PDEATHSIG does not do: it is lost when a server changes its user.
GUARD = 'read -r _; kill -s TERM -- "-$0"'


class Login(NamedTuple):
    """Name and password of a user whom every server knows that offers a login."""

    name: str
    password: str

    @property
    def base64_password(self) -> str:
        """The password in letters that need no quoting in any configuration."""
        return base64.b64encode(self.password.encode()).decode()


USER = Login(f"user@{DOMAIN}", ASCII_CANARY)
# Whatever has been a problem for somebody's quoting, encoding or separators.
AWKWARD_USER = Login("probe", AWKWARD_CANARY)
LOGINS = (USER, AWKWARD_USER)


def run_directory(name: str) -> Path:
    """Make a temporary directory that all users can enter; its path is short, as that of a socket in it must be."""
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    directory.chmod(0o755)
    return directory


def loopback_addresses() -> tuple[str, ...]:
    """127.0.0.1 and, where the machine has it, ::1."""
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
            return ("127.0.0.1", "::1")
    except OSError:
        return ("127.0.0.1",)


# Not from the range of outgoing connections, where a free port may be taken before the server has it; in an order
# that no seed of a test tool makes the same for two processes.
_PORTS = iter(random.SystemRandom().sample(range(10000, 32768), 32768 - 10000))


def free_port() -> int:
    """A TCP port on which nobody listens, and that has not been given to anybody before."""
    for port in _PORTS:
        with suppress(OSError):
            for address in loopback_addresses():
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                socket.create_server((address, port), family=family).close()
            return port
    raise RuntimeError("no port is free")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Return as soon as the condition holds; TimeoutError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} seconds in vain: {what}")
        time.sleep(0.02)


AnyServer = TypeVar("AnyServer", bound="Server")


class Server:
    """A server that runs in the foreground as our child; all that it reads and writes is in one directory.

    It runs from `start()` to `stop()`, or in the block of a `with`.
    The port of each of its services is an attribute: `postfix.starttls`. All ports are on every one of
    `loopback_addresses()`.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    services: ClassVar[Iterable[str]]
    greeting: ClassVar[bytes] = b"220 "  # of the first service, which knows QUIT
    directory: Path
    stdin: ClassVar[int] = subprocess.DEVNULL
    guard: ClassVar[str] = GUARD
    ports: Mapping[str, int] = {}
    process: subprocess.Popen[bytes]
    _guard: Optional[subprocess.Popen[bytes]] = None

    def __getattr__(self, service: str) -> int:
        try:
            return self.ports[service]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no service {service!r}, or is not started") from None

    def __enter__(self: AnyServer) -> AnyServer:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @classmethod
    def find_program(cls) -> Optional[str]:
        """Where the server is installed; None when it is not."""
        return shutil.which(cls.program, path=SEARCH_PATH)

    @classmethod
    def missing(cls) -> str:
        """Why the server cannot be started here; empty when it can."""
        if not cls.find_program():
            return f"{cls.name} is not installed (tests/install-servers does it)"
        if os.geteuid() != 0:
            return f"{cls.name} can be started by root only"
        return ""

    def configure(self) -> None:
        """Write the configuration into `directory`."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""
        raise NotImplementedError

    def log(self) -> str:
        """All that the server has logged so far."""
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def delivered(self) -> list[bytes]:
        """The mails in all mailboxes that no mail client has seen yet, unsorted."""
        return [path.read_bytes() for path in self.directory.glob("mail/*/new/*")]

    def wait_for_mail(self, text: str) -> bytes:
        """The delivered mail that contains a text, such as its subject; waits for it some seconds."""
        found: list[bytes] = []

        def arrived() -> bool:
            found[:] = [mail for mail in self.delivered() if text.encode() in mail]
            return bool(found)

        wait_until(arrived, f"{self.name} to deliver {text!r}", seconds=10)
        return found[0]

    def write(self, name: str, text: str) -> Path:
        """Write a file that the server's users can read."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    def make_directory(self, name: str, user: str, group: Optional[str] = None, mode: int = 0o755) -> Path:
        """Make a directory that belongs to a user of the server's and, unless told otherwise, its namesake group."""
        path = self.directory / name
        path.mkdir()
        shutil.chown(path, user, group or user)
        path.chmod(mode)  # not by mkdir, which obeys the umask
        return path

    def start(self) -> None:
        """Configure and start the server; returns when it answers."""
        self.directory = run_directory(self.name.lower())
        self.ports = {service: free_port() for service in self.services}
        try:
            self.configure()
            with open(self.directory / "output", "wb") as output:
                self.process = subprocess.Popen(
                    self.command(),
                    stdin=self.stdin,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for pytest, which stops us in its own time
                )
            self._guard = subprocess.Popen(
                ["sh", "-c", self.guard, str(self.process.pid)],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            wait_until(self._answers, f"{self.name} to answer")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            output = (self.directory / "output").read_text(errors="replace")
            raise RuntimeError(f"{self.name} did not start: {output}{self.log()}")
        try:
            with socket.create_connection(("127.0.0.1", next(iter(self.ports.values()))), timeout=5) as connection:
                greeting = connection.recv(1000)
                connection.sendall(b"QUIT\r\n")
                while connection.recv(1000):
                    pass  # a server logs it when the client leaves before its answer
                return greeting.startswith(self.greeting)
        except OSError:
            return False

    def stop(self) -> None:
        """Stop the server with all its processes and remove its directory."""
        if self._guard:
            self._guard.communicate()  # closes its standard input
            try:
                self.process.wait(STOP_SECONDS)
            finally:
                with suppress(ProcessLookupError):  # as it should be: all have gone
                    os.killpg(self.process.pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
