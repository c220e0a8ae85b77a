"""A Cyrus: the second opinion on how IMAP, POP3 and ManageSieve servers behave, and the one that can bind channels."""

from __future__ import annotations

import imaplib
import shutil
import ssl
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Optional

from . import DOMAIN, LOGINS, SEARCH_PATH, USER, Server, loopback_addresses
from .certificates import CertificateAuthority
from .mailboxes import Mail

# Cyrus cannot be installed beside Dovecot, so tests/install-servers unpacks it here.
UNPACKED = Path(__file__).parent.parent / ".servers" / "usr"
PROGRAMS = "lib/cyrus/bin"
LIBRARIES = "lib/*/libcyrus*.so.0"

# service: the daemon's command
LISTENERS = {
    "pop3": "pop3d",
    "pop3s": "pop3d -s",
    "imap": "imapd",
    "imaps": "imapd -s",
    "sieve": "timsieved",
}

# The inbox of USER; others have none.
MAILS = (Mail("Old", timedelta(days=2), 1000), Mail("New", timedelta(minutes=10), 2000, seen=False))
KIBIBYTES_LIMIT, MESSAGES_LIMIT = 1000, 10

# Its name, and that of the realm in which it looks for users of DOMAIN and of none.
HOST = f"cyrus.{DOMAIN}"

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")  # and SCRAM-*-PLUS, over TLS

CYRUS_USER = "mail"

CONFIGURATION = """\
servername: {host}
cyrus_user: {user}
cyrus_group: {user}
configdirectory: {directory}/state
partition-default: {directory}/mail
defaultpartition: default
sievedir: {directory}/sieve

altnamespace: yes
unixhierarchysep: yes
virtdomains: userid
defaultdomain: {domain}
# A mailbox comes into being with the first login.
autocreate_users: anyone
autocreate_quota: {kibibytes}
autocreate_quota_messages: {messages}
popminpoll: 0

tls_server_cert: {certificate.cert_path}
tls_server_key: {certificate.key_path}
allowplaintext: no
# Tests with wrong passwords need not wait.
failedloginpause: 0
sasl_mech_list: {mechanisms}
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {directory}/passwords
"""

SERVICES = """\
START {{
  recover cmd="{programs}/ctl_cyrusdb -C {configuration} -r"
}}
SERVICES {{
{listeners}
}}
"""
LISTENER = '  {name} cmd="{programs}/{program} -C {configuration}{option}" listen="{address}:{port}"'


class Cyrus(Server):
    """Cyrus IMAP 3; passwords in the clear over TLS only, on loopback as elsewhere.

    It logs to syslog, hence not to a file of ours: `log()` is empty.
    """

    name = "Cyrus"
    program = "master"
    services = LISTENERS
    greeting = b"+OK "

    def __init__(self, ca: CertificateAuthority) -> None:
        self._ca = ca

    @classmethod
    def find_program(cls) -> Optional[str]:
        return shutil.which(cls.program, path=f"{UNPACKED / PROGRAMS}:/usr/{PROGRAMS}")

    @classmethod
    def find_password_program(cls) -> Optional[str]:
        """Where the program is that writes Cyrus' passwords; None when there is none."""
        return shutil.which("saslpasswd2", path=f"{UNPACKED / 'sbin'}:{SEARCH_PATH}")

    @classmethod
    def missing(cls) -> str:
        reason = super().missing()
        if not reason and not cls.find_password_program():
            reason = "saslpasswd2 is not installed (tests/install-servers does it)"
        return reason

    def configure(self) -> None:
        # Cyrus' own user may not be able to enter the directories of a checkout.
        programs = Path(str(self.find_program())).parent
        (self.directory / "bin").mkdir()
        (self.directory / "lib").mkdir()
        for program in ("master", "ctl_cyrusdb", *{command.split()[0] for command in LISTENERS.values()}):
            shutil.copy(programs / program, self.directory / "bin")
        for library in programs.parent.parent.parent.glob(LIBRARIES):
            shutil.copy(library, self.directory / "lib")
        for name in ("state", "state/socket", "mail", "sieve"):
            self.make_directory(name, CYRUS_USER)
        configuration = self.write(
            "imapd.conf",
            CONFIGURATION.format(
                directory=self.directory,
                domain=DOMAIN,
                host=HOST,
                user=CYRUS_USER,
                kibibytes=KIBIBYTES_LIMIT,
                messages=MESSAGES_LIMIT,
                certificate=self._ca.issue(),
                mechanisms=" ".join(MECHANISMS),
            ),
        )
        listeners = [
            LISTENER.format(
                name=f"{service}{number}",
                programs=self.directory / "bin",
                program=command.split()[0],
                configuration=configuration,
                option=" -s" if command.endswith(" -s") else "",
                address=f"[{address}]" if ":" in address else address,
                port=self.ports[service],
            )
            for service, command in LISTENERS.items()
            for number, address in enumerate(loopback_addresses())
        ]
        self.write(
            "cyrus.conf",
            SERVICES.format(
                programs=self.directory / "bin",
                configuration=configuration,
                listeners="\n".join(listeners),
            ),
        )
        self._write_passwords()

    def _write_passwords(self) -> None:
        path = self.directory / "passwords"
        for login in LOGINS:
            name = login.name.partition("@")[0]
            subprocess.run(
                [str(self.find_password_program()), "-f", str(path), "-p", "-c", "-u", HOST, name],
                input=login.password.encode(),
                check=True,
            )
        shutil.chown(path, CYRUS_USER, CYRUS_USER)

    def command(self) -> list[str]:
        return [
            "env",
            f"LD_LIBRARY_PATH={self.directory / 'lib'}",
            str(self.directory / "bin" / "master"),
            *("-C", str(self.directory / "imapd.conf")),
            *("-M", str(self.directory / "cyrus.conf")),
            *("-p", str(self.directory / "pid")),
        ]

    def start(self) -> None:
        super().start()
        try:
            self._make_mailboxes()
        except BaseException:
            self.stop()
            raise

    def _make_mailboxes(self) -> None:
        """Log in as everybody over IMAP, since ManageSieve lets nobody in who has no mailbox yet; and fill the one."""
        context = ssl.create_default_context(cafile=str(self._ca.pem_path))
        for login in LOGINS:
            with imaplib.IMAP4_SSL("localhost", self.imaps, ssl_context=context) as imap:
                # Not login(): imaplib has ASCII only.
                imap.authenticate("PLAIN", lambda dummy, who=login: f"\0{who.name}\0{who.password}".encode())
                if login == USER:
                    self._fill(imap)

    def _fill(self, imap: imaplib.IMAP4_SSL) -> None:
        now = datetime.now(timezone.utc)
        for mail in MAILS:
            date = imaplib.Time2Internaldate(now - mail.age)
            imap.append("INBOX", r"(\Seen)" if mail.seen else None, date, mail.content(now))
