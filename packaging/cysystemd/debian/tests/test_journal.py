"""What is written to a journal is read from it, through libsystemd."""

import socket
import subprocess

import pytest
from cysystemd import _daemon, _journal, daemon, journal
from cysystemd.reader import JournalReader, Rule

REMOTE = "/usr/lib/systemd/systemd-journal-remote"
ENTRY = """\
__REALTIME_TIMESTAMP={time}
__MONOTONIC_TIMESTAMP={time}
_BOOT_ID=0123456789abcdef0123456789abcdef
MESSAGE=number {number}
NUMBER={number}

"""


@pytest.fixture
def filled(tmp_path):
    """A journal file with ten entries."""
    entries = [ENTRY.format(time=1_700_000_000_000_000 + n, number=n) for n in range(10)]
    command = [REMOTE, f"--output={tmp_path}/ten.journal", "-"]
    subprocess.run(command, check=True, input="".join(entries), text=True)
    return tmp_path


def test_entries_come_in_order(filled):
    reader = JournalReader()
    reader.open_files(str(filled / "ten.journal"))
    reader.seek_head()
    assert [each["NUMBER"] for each in reader] == [str(n) for n in range(10)]


def test_a_filter_chooses(filled):
    reader = JournalReader()
    reader.open_directory(str(filled))
    reader.add_filter(Rule("NUMBER", "3") | Rule("NUMBER", "7"))
    reader.seek_head()
    assert [each["MESSAGE"] for each in reader] == ["number 3", "number 7"]


def test_no_directory(tmp_path):
    with pytest.raises(OSError):
        JournalReader().open_directory(str(tmp_path / "none"))


def test_the_daemon_has_a_word_for_systemd(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon.notify(daemon.Notification.READY)
        assert b"READY=1" in systemd.recv(100)


def test_all_is_there():
    assert _journal.send
    assert _daemon.sd_notify
    assert journal.JournaldLogHandler
