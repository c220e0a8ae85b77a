"""An NSD: a name server with whatever zones a test wants."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Optional

from . import DOMAIN, SEARCH_PATH, Server, free_port, wait_until

# As a package it would take the port of the machine's name server, so tests/install-servers unpacks it here.
UNPACKED = Path(__file__).parent.parent / ".servers" / "usr" / "sbin"

ADDRESS = "127.0.0.1"
NOBODY = "127.0.0.99"  # a loopback address on which nothing listens

CONFIGURATION = """\
server:
  ip-address: {address}@{port}
  server-count: 1
  username: ""
  chroot: ""
  hide-version: yes
  # Many tests ask at once, and all of them come from the same address.
  rrl-ratelimit: 0
  database: ""
  zonesdir: {directory}
  zonelistfile: {directory}/zone.list
  xfrdfile: {directory}/xfrd.state
  xfrdir: {directory}
  pidfile: {directory}/pid
  logfile: {directory}/log
remote-control:
  control-enable: no
"""
ZONE = """\
zone:
  name: {name}
  zonefile: {file}
"""
ZONE_HEAD = """\
$ORIGIN {name}.
$TTL 60
@ SOA ns.{domain}. postmaster.{domain}. 1 3600 600 86400 60
@ NS ns.{domain}.
"""

# What `name_server` serves. Whoever wants other records starts a NameServer of their own.
ZONES = {
    DOMAIN: f"""\
@            A      127.0.0.1
@            MX     10 mail
@            MX     20 half
ns           A      127.0.0.1
mail         A      127.0.0.1
other        A      127.0.0.4
cluster      A      127.0.0.1
cluster      A      127.0.0.2
cluster      A      127.0.0.3
cluster      A      127.0.0.4
half         A      127.0.0.1
half         A      {NOBODY}
both         A      127.0.0.1
both         AAAA   ::1
six          AAAA   ::1
alias        CNAME  mail
dead         A      {NOBODY}
nothing      TXT    "neither address nor MX"
no-mail      MX     0 .
_submission._tcp   SRV  0 1 587 mail
_submissions._tcp  SRV  0 1 465 mail
_imap._tcp         SRV  0 1 143 mail
_imaps._tcp        SRV  0 1 993 mail
_pop3._tcp         SRV  0 0 0 .  ; not offered, RFC 6186 3.4
_pop3s._tcp        SRV  10 1 995 mail
_sieve._tcp        SRV  0 1 4190 mail
""",
    # 127.0.0.1 and ::1 are what they say; 127.0.0.2 is not, since other has another address; 127.0.0.3 is nobody.
    "0.0.127.in-addr.arpa": f"""\
1  PTR  mail.{DOMAIN}.
2  PTR  other.{DOMAIN}.
4  PTR  other.{DOMAIN}.
""",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa": f"1  PTR  both.{DOMAIN}.\n",
}


class NameServer(Server):
    """NSD, by UDP and by TCP, on ADDRESS only.

    zones: the records of each zone as they stand in a zone file, without SOA and NS, which every zone has.
    """

    name = "NSD"
    program = "nsd"
    services = ("dns",)

    def __init__(self, zones: Mapping[str, str] = ZONES) -> None:
        self._zones = zones

    @property
    def address(self) -> str:
        """Where the server is, as ADDRESS:PORT."""
        return f"{ADDRESS}:{self.dns}"

    @classmethod
    def find_program(cls) -> Optional[str]:
        return shutil.which(cls.program, path=f"{UNPACKED}:{SEARCH_PATH}")

    @classmethod
    def missing(cls) -> str:
        return "" if cls.find_program() else f"{cls.name} is not installed (tests/install-servers does it)"

    def configure(self) -> None:
        wait_until(self._take_udp_port, "a port that is free for UDP, too")
        configuration = CONFIGURATION.format(address=ADDRESS, port=self.dns, directory=self.directory)
        for number, (name, records) in enumerate(self._zones.items()):
            file = self.write(f"{number}.zone", ZONE_HEAD.format(name=name, domain=DOMAIN) + records)
            configuration += ZONE.format(name=name, file=file)
        self.write("nsd.conf", configuration)

    def _take_udp_port(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
            udp.bind((ADDRESS, self.dns))
            return True
        self.ports = {"dns": free_port()}
        return False

    def command(self) -> list[str]:
        return [str(self.find_program()), "-d", "-c", str(self.directory / "nsd.conf")]

    def _answers(self) -> bool:
        # A zone with a mistake in it is no reason for NSD not to start.
        if self.process.poll() is not None or ": error: " in self.log():
            raise RuntimeError(f"{self.name} did not start: {self.log()}")
        # The first zone is asked for its SOA (6) in class IN (1), with an answer without error and with content.
        labels = next(iter(self._zones)).rstrip(".").split(".")
        name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
        question = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 6, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
            udp.settimeout(1)
            udp.connect((ADDRESS, self.dns))
            udp.send(question)
            flags, _, answers = struct.unpack("!3H", udp.recv(4096)[2:8])
            return flags & 15 == 0 and answers == 1
        return False
