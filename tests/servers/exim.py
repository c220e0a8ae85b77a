"""An Exim: the second opinion on how an SMTP server behaves."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Optional

from . import DOMAIN, LOGINS, MAILBOXES, SEARCH_PATH, Server, loopback_addresses
from .certificates import CertificateAuthority

# Exim cannot be installed beside Postfix, so tests/install-servers unpacks it here.
UNPACKED = Path(__file__).parent.parent / ".servers" / "usr" / "sbin"

EXIM_USER = "Debian-exim"

CONFIGURATION = """\
exim_path = {directory}/exim
spool_directory = {directory}/spool
log_file_path = {directory}/logs/%slog
pid_file_path = {directory}/spool/pid
log_selector = +smtp_connection +smtp_protocol_error +smtp_syntax_error
# Nothing is delivered to system users, so Exim needs no way back to root.
deliver_drop_privilege

primary_hostname = exim.{domain}
local_interfaces = <; {addresses}
daemon_smtp_ports = {ports[starttls]} : {ports[implicit]} : {ports[open_relay]}
tls_on_connect_ports = {ports[implicit]}
tls_advertise_hosts = *
tls_certificate = {certificate.cert_path}
tls_privatekey = {certificate.key_path}
auth_advertise_hosts = ${{if def:tls_in_cipher{{*}}}}
acl_smtp_rcpt = recipient

begin acl
recipient:
  accept
    authenticated = *
  accept
    condition = ${{if eq{{$received_port}}{{{ports[open_relay]}}}}}
  require
    message = relay not permitted
    domains = {domain}
  require
    message = Unknown user
    verify = recipient
  accept

begin routers
mailbox:
  driver = accept
  domains = {domain}
  local_parts = {mailboxes}
  transport = maildir
elsewhere:
  driver = redirect
  domains = ! {domain}
  data = :blackhole:

begin transports
maildir:
  driver = appendfile
  directory = {directory}/mail/all
  maildir_format
  user = {user}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if inlist{{${{base64:$auth2 $auth3}}}}{{{logins}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if inlist{{${{base64:$auth1 $auth2}}}}{{{logins}}}}}
  server_set_id = $auth1
"""


class Exim(Server):
    """Exim with STARTTLS on one port and TLS from the start on another; logins over TLS only.

    On a third port, with STARTTLS, it relays for everybody; nothing that is for elsewhere gets there, though.
    """

    name = "Exim"
    program = "exim4"
    services = ("starttls", "implicit", "open_relay")

    def __init__(self, ca: CertificateAuthority) -> None:
        self._ca = ca

    @classmethod
    def find_program(cls) -> Optional[str]:
        return shutil.which(cls.program, path=f"{UNPACKED}:{SEARCH_PATH}")

    def configure(self) -> None:
        # Exim calls itself as its own user, who may not be able to enter the directories of a checkout.
        shutil.copyfile(str(self.find_program()), self.directory / "exim")
        (self.directory / "exim").chmod(0o755)
        for name in ("mail", "logs", "spool"):
            self.make_directory(name, EXIM_USER, EXIM_USER)
        self.write(
            "exim.conf",
            CONFIGURATION.format(
                directory=self.directory,
                domain=DOMAIN,
                addresses=" ; ".join(loopback_addresses()),
                ports=self.ports,
                certificate=self._ca.issue(),
                mailboxes=" : ".join(MAILBOXES),
                user=EXIM_USER,
                # In base64, where no letter means anything to Exim.
                logins=" : ".join(base64.b64encode(" ".join(login).encode()).decode() for login in LOGINS),
            ),
        )

    def command(self) -> list[str]:
        return [str(self.directory / "exim"), "-C", str(self.directory / "exim.conf"), "-bdf"]

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("logs/*")))
