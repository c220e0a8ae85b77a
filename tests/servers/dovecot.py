"""A Dovecot: mailboxes behind LMTP, IMAP, POP3 and ManageSieve, and the logins of Postfix."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import DOMAIN, LOGINS, MAILBOXES, Login, Server, loopback_addresses
from .certificates import CertificateAuthority

# service: Dovecot's process and whether TLS comes first
LISTENERS = {
    "lmtp": ("lmtp", False),
    "imap": ("imap-login", False),
    "imaps": ("imap-login", True),
    "pop3": ("pop3-login", False),
    "pop3s": ("pop3-login", True),
    "sieve": ("managesieve-login", False),
}

# Mailboxes that take no mail (refused at RCPT TO), or only small ones (refused after DATA).
FULL = f"full@{DOMAIN}"
SMALL = f"small@{DOMAIN}"
SMALL_BYTES = 2000
QUOTAS = {FULL: 1, SMALL: SMALL_BYTES}

# The user whom Dovecot gives to what belongs to no system user; root and Dovecot's own are not allowed to be it.
MAIL_USER = "mail"

CONFIGURATION = """\
protocols = lmtp imap pop3 sieve
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
listen = {addresses}

ssl = yes
ssl_cert = <{certificate.cert_path}
ssl_key = <{certificate.key_path}

auth_mechanisms = plain login cram-md5
# Tests with wrong passwords need not wait, and those that come after them neither.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
}}
service auth {{
  unix_listener {directory}/auth {{
    mode = 0666
  }}
}}

mail_uid = {user}
mail_gid = {user}
first_valid_uid = 1
mail_location = maildir:{directory}/mail/%n
mail_plugins = quota
lmtp_rcpt_check_quota = yes
plugin {{
  quota = count:User quota
  quota_vsizes = yes
  quota_grace = 0
  sieve = file:{directory}/home/%n/sieve;active={directory}/home/%n/active.sieve
}}
service lmtp {{
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
}}
"""

LISTENER = """\
service {process} {{
  inet_listener {service} {{
    port = {port}
    ssl = {ssl}
  }}
}}
"""


class Dovecot(Server):
    """Dovecot 2.3."""

    name = "Dovecot"
    program = "dovecot"
    services = LISTENERS

    def __init__(self, ca: CertificateAuthority) -> None:
        self._ca = ca

    @property
    def auth_socket(self) -> Path:
        """The Unix socket at which Postfix asks for logins."""
        return self.directory / "auth"

    @property
    def lmtp_socket(self) -> Path:
        """The Unix socket of LMTP."""
        return self.directory / "lmtp"

    @classmethod
    def missing(cls) -> str:
        reason = super().missing()
        if not reason:
            version = subprocess.run([str(cls.find_program()), "--version"], check=True, capture_output=True, text=True)
            if not version.stdout.startswith("2.3."):
                reason = f"the tests know the configuration of Dovecot 2.3 only, this is {version.stdout.strip()}"
        return reason

    def configure(self) -> None:
        for name in ("mail", "home"):
            self.make_directory(name, MAIL_USER)
        # At RCPT TO it is only a mailbox with more in it than it may have that counts as full.
        self.make_directory("mail/full", MAIL_USER)
        for name in ("cur", "new", "tmp"):
            self.make_directory(f"mail/full/{name}", MAIL_USER)
        self.write("mail/full/cur/1.read:2,S", "Subject: One too many\n\n")
        configuration = CONFIGURATION.format(
            directory=self.directory,
            addresses=", ".join(loopback_addresses()),
            certificate=self._ca.issue(),
            user=MAIL_USER,
        )
        for service, (process, tls) in LISTENERS.items():
            ssl = "yes" if tls else "no"
            configuration += LISTENER.format(process=process, service=service, port=self.ports[service], ssl=ssl)
        self.write("dovecot.conf", configuration)
        self.write("users", "".join(self._users()))

    def _users(self) -> Iterator[str]:
        names = [login.name for login in LOGINS]
        others = [Login(f"{name}@{DOMAIN}", "secret") for name in MAILBOXES if f"{name}@{DOMAIN}" not in names]
        for login in (*LOGINS, *others, *(Login(name, "secret") for name in QUOTAS)):
            home = self.directory / "home" / login.name
            quota = f"userdb_quota_rule=*:bytes={QUOTAS[login.name]}" if login.name in QUOTAS else ""
            yield f"{login.name}:{{PLAIN.b64}}{login.base64_password}::::{home}::{quota}\n"

    def command(self) -> list[str]:
        return [str(self.find_program()), "-F", "-c", str(self.directory / "dovecot.conf")]
