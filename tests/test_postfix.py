"""Debian's own Postfix asks a policy service of ours; an SMTP session over loopback shows what it
makes of the answer."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, Installed, in_machine, journal, run, until

pytestmark = in_machine

EXAMPLES = Path("/usr/share/doc/spawnhelper/examples")
REFUSED = Path("/etc/postfix/refused-senders")
WANTED = "mail from this sender is not wanted here"


@pytest.fixture(scope="module")
def postfix() -> Iterator[None]:
    """A running Postfix that listens on loopback and delivers nothing."""
    REFUSED.write_text("# test\nspam.example\nonly@this.example\n")
    for setting in (
        "inet_interfaces=loopback-only",
        "myhostname=mail.example",
        "mydestination=mail.example, localhost",
        "local_recipient_maps=",
        "local_transport=discard",
        "maillog_file=",
        "smtpd_peername_lookup=no",
        "alias_maps=",
        "alias_database=",
    ):
        run("postconf", "-e", setting)
    yield
    run("systemctl", "stop", "postfix")


def ask(sender: str) -> tuple[int, str]:
    """What smtpd says to a recipient of mail from this sender."""
    with smtplib.SMTP("127.0.0.1", 25, "client.example", timeout=PATIENCE) as client:
        client.ehlo()
        client.mail(sender)
        code, text = client.rcpt("someone@mail.example")
        return code, text.decode()


def with_policy(where: str) -> None:
    """Points smtpd at the policy service. A session keeps its connection to it, so a smtpd
    process serves one SMTP client only, and ends with it."""
    run(
        "postconf",
        "-e",
        f"smtpd_recipient_restrictions=check_policy_service {where}, permit_mynetworks, reject",
    )
    run("postconf", "-e", "smtpd_client_restrictions=", "max_use=1")
    run("systemctl", "restart", "postfix")
    until(lambda: Path("/var/spool/postfix/pid/master.pid").exists())

    def answers() -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", 25, timeout=5):
                return True
        except OSError:
            return False

    until(answers)


@pytest.fixture
def policy() -> Iterator[Installed]:
    """The example service as it stands, under the name that the documentation gives it."""
    there = Installed("policy", ("127.0.0.1", 10031))
    text = (EXAMPLES / "policy.conf").read_text()
    there.file.write_text(text)
    there.seen = len(journal("SPAWN_SERVICE=policy"))
    yield there
    run("systemctl", "disable", "-q", "--now", there.socket_unit, check=False)
    there.file.unlink()
    run("systemctl", "daemon-reload")


def decisions(there: Installed, client_field: str) -> None:
    """Accepts and rejects as the program says; one record a connection, with its exit."""
    assert ask("friend@good.example") == (250, "2.1.5 Ok")
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_CODE"], record["EXIT_STATUS"]) == (
        "success",
        "exited",
        "0",
    )
    assert record["SPAWN_COMMAND"] == str(EXAMPLES / "policyd")
    assert record["SPAWN_USER"] == "nobody"
    assert client_field in record
    for sender in ("someone@spam.example", "ONLY@this.example"):
        code, text = ask(sender)
        assert (code, WANTED in text) == (554, True)
        assert there.record()["SPAWN_RESULT"] == "success"
    # On trouble it says nothing; Postfix tries again, gives up and asks the client to come back.
    REFUSED.rename(REFUSED.with_suffix(".gone"))
    try:
        code, text = ask("friend@good.example")
    finally:
        REFUSED.with_suffix(".gone").rename(REFUSED)
    assert (code, "4.3.5" in text) == (451, True)
    found = there.records(there.seen + 2)[there.seen :]
    assert {(record["SPAWN_RESULT"], record["EXIT_STATUS"]) for record in found} == {
        ("exit-code", "1")
    }
    there.seen += len(found)


@pytest.mark.usefixtures("postfix")
def test_policy_service_over_tcp(policy: Installed) -> None:
    assert run("spawnctl", "check", "policy").stdout == "/etc/spawn/policy.conf: ok\n"
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", policy.socket_unit)
    with_policy("inet:127.0.0.1:10031")
    decisions(policy, "SPAWN_REMOTE_ADDR")


@pytest.mark.usefixtures("postfix")
def test_policy_service_in_the_private_directory(policy: Installed) -> None:
    path = "/var/spool/postfix/private/policy-spawn"
    text = policy.file.read_text().replace(
        "ListenStream=127.0.0.1:10031",
        f"ListenStream={path}\nSocketUser=postfix\nSocketGroup=postfix\nSocketMode=0600",
    )
    policy.file.write_text(text)
    policy.address = path
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", policy.socket_unit)
    with_policy("unix:private/policy-spawn")
    decisions(policy, "SPAWN_REMOTE_UID")


def test_the_example_as_postfix_documents_the_protocol(
    service: Callable[..., Installed],
) -> None:
    REFUSED.write_text("spam.example\n")
    there = service(f"User=nobody\nStandardError=null\nArgv={EXAMPLES}/policyd {REFUSED}")
    requests = "".join(
        f"request=smtpd_access_policy\nprotocol_state=RCPT\nsender={sender}\n\n"
        for sender in ("a@spam.example", "b@fine.example", "")
    )
    assert there.talk(requests.encode()) == (
        f"action=REJECT {WANTED}\n\naction=DUNNO\n\naction=DUNNO\n\n".encode()
    )


def test_the_first_example(service: Callable[..., Installed]) -> None:
    hello = service("", address=("127.0.0.1", 10023), start=False)
    hello.file.write_text((EXAMPLES / "hello.conf").read_text())
    hello.start()
    assert hello.talk() == b"Hello, 127.0.0.1. This is nobody, in a process of your own.\n"
    assert hello.record()["SPAWN_RESULT"] == "success"
