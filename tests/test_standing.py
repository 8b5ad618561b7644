"""The standing server (Accept=no): what it is to systemd, to its clients and to the files."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import (
    SLACK,
    Installed,
    in_machine,
    journal,
    main_pid,
    read_all,
    reset,
    rests,
    run,
    until,
)

pytestmark = in_machine

CAT = "User=nobody\nArgv=/bin/cat\n"
STANDING = "Accept=no\n"


@pytest.fixture
def standing(service: Callable[..., Installed]) -> Callable[..., Installed]:
    """Makes services with a standing server."""

    def make(spawn: str = CAT, more: str = "", **options: object) -> Installed:
        return service(spawn, socket_section=STANDING + more, **options)

    return make


def unit_of(there: Installed) -> str:
    return f"spawn-server@{there.name}.service"


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_serves(standing: Callable[..., Installed]) -> None:
    there = standing()
    assert there.talk(b"hello") == b"hello"
    assert there.record()["SPAWN_RESULT"] == "success"
