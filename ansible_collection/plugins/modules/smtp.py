#!/usr/bin/python

# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that an SMTP, submission or LMTP server works, and say why not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: smtp
short_description: Check that an SMTP, submission or LMTP server works
version_added: 0.1.0
author:
  - The mailprobe founders (@mailprobe)
description:
  - Holds a conversation with an SMTP, submission or LMTP server and judges every reply.
  - Connect, greeting, EHLO, STARTTLS or TLS from the first byte, login, extra commands, sender and recipients are each
    judged, and the module fails with the server's own words and a hint where to look when one of them does not work.
  - Nothing is delivered unless O(send=true); without it a transaction ends with RSET.
  - The conversation is held from the host that the task runs on. Use C(delegate_to) to look from elsewhere.
extends_documentation_fragment:
  - mailprobe.checks._options.smtp
  - mailprobe.checks._attributes
seealso:
  - module: mailprobe.checks.pop3
  - module: mailprobe.checks.imap
  - module: mailprobe.checks.sieve
  - module: ansible.builtin.wait_for
  - module: community.general.mail
  - module: community.crypto.get_certificate
"""

EXAMPLES = r"""
- name: The mail server answers
  mailprobe.checks.smtp:
    host: mx1.example.org

- name: It offers STARTTLS with a good certificate and takes mail for the postmaster, seen from outside
  mailprobe.checks.smtp:
    host: mx1.example.org
    tls: starttls
    mail_from: probe@example.com
    rcpt_to:
      - postmaster@example.org
  delegate_to: localhost
  run_once: true

- name: Users can log in and send
  mailprobe.checks.smtp:
    host: mail.example.org
    tls: implicit
    username: probe
    password: "{{ vault_probe_password }}"

- name: After a restart, wait until the server is ready (24 * 5 seconds = 2 minutes)
  mailprobe.checks.smtp:
    host: "{{ inventory_hostname }}"
  register: result
  until: result is succeeded
  retries: 24
  delay: 5

- name: Collect, without failing
  mailprobe.checks.smtp:
    host: mx1.example.org
    tls: starttls
  register: result
  failed_when: false

- name: Judge what was collected
  ansible.builtin.assert:
    that:
      - result.healthy
      - result.certificate.days_left > 14
      - result.timings.greeting < 2
      - "'PIPELINING' in result.facts.capabilities"

- name: The local delivery agent takes mail for a user, over its Unix socket
  mailprobe.checks.smtp:
    host: /run/dovecot/lmtp
    lmtp: true
    rcpt_to:
      - postmaster@example.org

- name: A password that leaked does not work any more
  mailprobe.checks.smtp:
    host: mail.example.org
    tls: implicit
    username: probe
    password: "{{ vault_leaked_password }}"
    expect_login_refused: true

- name: Every address behind the name keeps its promises
  mailprobe.checks.smtp:
    host: mx.example.org
    tls: starttls
    all_addresses: true
    require_capability:
      - SMTPUTF8
    refuse_plaintext_login: true
    refuse_starttls_injection: true
    refuse_tls:
      - TLSv1
      - TLSv1.1
    min_certificate_days: 14
    max_seconds: 5
"""

RETURN = r"""
msg:
  description: What is wrong, where, in the server's own words, with a hint for each; or that the server works.
  type: str
  returned: always
  sample: "mx1.example.org:25, at connect: connection refused by 192.0.2.25 port 25. Nothing listens on that port, or a
    firewall rejects. Is the service running, on this address and this port?"
state:
  description:
    - The verdict in the words of the checks for Nagios and Icinga.
    - V(critical) when something did not work, V(warning) when the server asked to come again later or something is
      flawed, V(unknown) when an option is wrong, else V(ok). O(state) can choose another for each finding.
    - What the module was asked to judge beside that (O(max_seconds), O(min_certificate_days)) is in RV(unmet).
  type: str
  returned: always
  sample: ok
healthy:
  description: Whether all was as it must be; where it is false, the task fails, unless C(failed_when) says otherwise.
  type: bool
  returned: always
  sample: true
protocol:
  description: V(smtp) or V(lmtp).
  type: str
  returned: always
  sample: smtp
host:
  description: The host as it was given.
  type: str
  returned: always
  sample: mx1.example.org
port:
  description: The port, null for a Unix socket.
  type: int
  returned: always
  sample: 25
address:
  description: The IP address that was talked to, null when none was.
  type: str
  returned: always
  sample: 192.0.2.25
elapsed:
  description: Seconds that the whole run took.
  type: float
  returned: always
  sample: 0.184
timings:
  description: Seconds by stage, null for a stage that was not reached. All stages of all protocols are there.
  type: dict
  returned: always
  sample:
    resolve: 0.002
    connect: 0.011
    greeting: 0.023
    capabilities: 0.022
    tls: 0.041
    auth: null
    command: null
    mail: null
    rcpt: null
    data: null
    reset: null
    mailbox: null
    search: null
    quota: null
    script: null
    quit: 0.011
problems:
  description: What was found, in the order in which it was found.
  type: list
  elements: dict
  returned: always
  contains:
    code:
      description: A stable word for the finding.
      type: str
      sample: recipient-refused
    stage:
      description: The stage it was found at.
      type: str
      sample: rcpt
    severity:
      description: V(failure), V(temporary) when the server asked to come again later, or V(flaw).
      type: str
      sample: failure
    state:
      description: What it means in monitoring, V(ok), V(warning), V(critical) or V(unknown); see O(state).
      type: str
      sample: critical
    message:
      description: What happened, with the server's own words.
      type: str
      sample: "RCPT TO:<nobody@example.org> refused: '550 5.1.1 User unknown'"
    hint:
      description: Where to look.
      type: str
      sample: "No such user, relaying denied, or a policy: the server's words and its enhanced status code (RFC 3463)
        say which."
    address:
      description: The address it was found at, null unless there are several (O(all_addresses)).
      type: str
      sample: null
  sample: []
tls:
  description: The TLS session. Everything is null or false without TLS.
  type: dict
  returned: always
  contains:
    version:
      description: The protocol version.
      type: str
      sample: TLSv1.3
    cipher:
      description: The cipher suite in OpenSSL's words.
      type: str
      sample: TLS_AES_256_GCM_SHA384
    cipher_bits:
      description: The strength of the cipher.
      type: int
      sample: 256
    group:
      description: The group of the key exchange, null before Python 3.15.
      type: str
      sample: null
    alpn:
      description: The application protocol that was agreed on, null when none was offered (O(alpn)).
      type: str
      sample: null
    compression:
      description: The compression in use, null for none, as it should be.
      type: str
      sample: null
    secure_renegotiation:
      description: Whether renegotiation is secure (RFC 5746), true for TLS 1.3, which has none; null when not known.
      type: bool
      sample: true
    verified:
      description: Whether the certificate's chain and name were checked and found good.
      type: bool
      sample: true
    verify_error:
      description: Why the certificate was not accepted, null if it was or was not checked.
      type: str
      sample: null
    chain_complete:
      description: Whether the certificates that the server sent lead up to an authority; null when not known.
      type: bool
      sample: true
    chain_in_order:
      description: Whether each of them is followed by that of its issuer; null when not known.
      type: bool
      sample: true
    chain_days:
      description: Whole days until the first of them expires; null when not known.
      type: int
      sample: 37
  sample:
    version: TLSv1.3
    cipher: TLS_AES_256_GCM_SHA384
    cipher_bits: 256
    group: null
    alpn: null
    compression: null
    secure_renegotiation: true
    verified: true
    verify_error: null
    chain_complete: true
    chain_in_order: true
    chain_days: 37
certificate:
  description: The server's certificate, the bad one, too. What is not known is null.
  type: dict
  returned: always
  contains:
    subject:
      description: The subject (RFC 4514).
      type: str
      sample: CN=mx1.example.org
    issuer:
      description: The issuer (RFC 4514).
      type: str
      sample: CN=R11,O=Let's Encrypt,C=US
    names:
      description: The subject alternative names.
      type: list
      elements: str
      sample:
        - mx1.example.org
    serial:
      description: The serial number, hexadecimal.
      type: str
      sample: 04A1F3
    fingerprint_sha256:
      description: The SHA-256 of the certificate, hexadecimal with colons, as OpenSSL prints it.
      type: str
      sample: "9F:0C:E4:7A:..."
    not_before:
      description: When it begins to be valid, ISO 8601 in UTC.
      type: str
      sample: "2026-10-01T00:00:00+00:00"
    not_after:
      description: When it ends to be valid, ISO 8601 in UTC.
      type: str
      sample: "2026-12-30T00:00:00+00:00"
    days_left:
      description: Whole days until then, rounded down; negative when it has expired.
      type: int
      sample: 37
    lifetime_percent:
      description: What is left of its lifetime, in percent.
      type: float
      sample: 41.52
    key_type:
      description: The kind of the public key; needs C(cryptography) on the host that runs the module.
      type: str
      sample: EC
    key_bits:
      description: The size of the public key; needs C(cryptography) on the host that runs the module.
      type: int
      sample: 256
    signature_algorithm:
      description: The algorithm of its signature; needs C(cryptography) on the host that runs the module.
      type: str
      sample: ecdsa-with-SHA256
    self_signed:
      description: Whether it is its own issuer.
      type: bool
      sample: false
  sample: {}
chain:
  description:
    - The certificates that the server sent, its own first, each with the keys of RV(certificate).
    - Before Python 3.10 the first only.
  type: list
  elements: dict
  returned: always
  sample: []
facts:
  description: What the server told. What it did not tell, or was not asked, is null or empty.
  type: dict
  returned: always
  contains:
    banner:
      description: The words of the greeting, without its code or status.
      type: str
      sample: mx1.example.org ESMTP Postfix
    capabilities:
      description: What the server listed as its capabilities when it last did, a line of its list each.
      type: list
      elements: str
      sample:
        - PIPELINING
        - SIZE 10240000
        - STARTTLS
    auth_mechanisms:
      description: The mechanisms offered for login.
      type: list
      elements: str
      sample: []
    mechanism:
      description: The mechanism of our login, null when there was none.
      type: str
      sample: null
    login:
      description: V(accepted) or V(refused), null when the server said neither.
      type: str
      sample: null
    greeting_code:
      description: The code of the greeting.
      type: int
      sample: 220
    size_limit:
      description: Octets of the largest message that the server takes, null when it sets no limit.
      type: int
      sample: 10240000
    commands:
      description: The replies to O(command), in its order.
      type: list
      elements: dict
      contains:
        command:
          description: The command.
          type: str
          sample: VRFY postmaster
        accepted:
          description: Whether the reply is what O(response) asks for, or else positive.
          type: bool
          sample: true
        code:
          description: The code of the reply.
          type: int
          sample: 250
        enhanced:
          description: Its enhanced status code (RFC 3463), null when there was none.
          type: str
          sample: 2.1.5
        text:
          description: Its words.
          type: str
          sample: 2.1.5 Ok
      sample: []
    recipients:
      description: The replies to RCPT TO, in the order of O(rcpt_to).
      type: list
      elements: dict
      contains:
        address:
          description: The recipient.
          type: str
          sample: postmaster@example.org
        accepted:
          description: Whether the server takes mail for this recipient.
          type: bool
          sample: true
        code:
          description: The code of the reply.
          type: int
          sample: 250
        enhanced:
          description: Its enhanced status code (RFC 3463), null when there was none.
          type: str
          sample: 2.1.5
        text:
          description: Its words.
          type: str
          sample: 2.1.5 Ok
      sample:
        - address: postmaster@example.org
          accepted: true
          code: 250
          enhanced: 2.1.5
          text: 2.1.5 Ok
    message_id:
      description: The Message-ID of the message that was sent, null when none was.
      type: str
      sample: null
    deliveries:
      description: The replies to the message; with O(lmtp=true) one for each recipient that was accepted, else one for
        all.
      type: list
      elements: dict
      contains:
        address:
          description: The recipient, or all of them with commas between.
          type: str
          sample: postmaster@example.org
        accepted:
          description: Whether the server took the message.
          type: bool
          sample: true
        code:
          description: The code of the reply.
          type: int
          sample: 250
        enhanced:
          description: Its enhanced status code (RFC 3463), null when there was none.
          type: str
          sample: 2.1.5
        text:
          description: Its words.
          type: str
          sample: "2.0.0 Ok: queued as 4fT2Yk1mNz"
      sample: []
    queue_id:
      description: The queue id that the server named, null when it named none.
      type: str
      sample: null
  sample: {}
notes:
  description: What else is to be known about this run; shown as warnings, too.
  type: list
  elements: str
  returned: always
  sample: []
addresses:
  description:
    - With O(all_addresses), what was found at each address of the name, else empty.
    - The keys are RV(state), RV(address), RV(elapsed), RV(timings), RV(problems), RV(tls), RV(certificate), RV(chain)
      and RV(facts), each as in the result itself, which tells of the worst of them.
  type: list
  elements: dict
  returned: always
  sample: []
unmet:
  description: What was measured and is not as it must be (O(max_seconds), O(min_certificate_days)); the module fails.
  type: list
  elements: str
  returned: always
  sample: []
transcript:
  description:
    - The conversation, line by line, without secrets.
    - C( -> ) is what we said, C(<-  ) the server; C( ~> ) and C(<~  ) over TLS; C(=== ) a note, C(*** ) a finding.
  type: list
  elements: str
  returned: always
  sample:
    - "=== connected to 192.0.2.25 port 25"
    - "<-  220 mx1.example.org ESMTP Postfix"
    - " -> QUIT"
    - "<-  221 2.0.0 Bye"
"""

from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.smtp import SmtpFacts, SmtpOptions, probe
from ansible_collections.mailprobe.checks.plugins.module_utils._module import run


def main() -> None:
    """Options, probe, report."""
    run(SmtpOptions, SmtpFacts, probe)


if __name__ == "__main__":
    main()
