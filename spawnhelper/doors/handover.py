"""How a standing server becomes another program without losing a connection: systemctl reload.

The new program is tried first, by a process of its own. Then this process executes it, and stays
the parent of its workers; what else it has to know is in a file of memory that it inherits. The
values are plain ones, and FORMAT says which: a program that has another is not executed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from spawnhelper import manager
from spawnhelper.conf.service import Service
from spawnhelper.conf.syntax import Assignment
from spawnhelper.doors import pool
from spawnhelper.doors.crew import Crew
from spawnhelper.doors.inherited import Connection
from spawnhelper.doors.pool import Held, Worker
from spawnhelper.doors.registrar import Registrar
from spawnhelper.record import LIMITS
from spawnhelper.stages.identity import Identity
from spawnhelper.stages.plan import Plan

# To be counted up with each change of what is written here, or of what workers say (wire.py): the
# workers of before go on to the end of their connections.
FORMAT = 4
TRY, RESUME = "--try", "--resume"
INTERPRETER = ("-I", "-S", "-X", "utf8")
TRIAL_TIME = 60 * pool.NSEC_PER_SEC
# What a record says about a service, and what the server has to know of a connection that it has.
SETTINGS = (
    "log",
    "summary_interval",
    "syslog_identifier",
    "syslog_facility",
    "max_commands",
    "queue_limit",
    "time_limit",
    "kill_delay",
    "proxy_protocol",
    "proxy_time_limit",
)


def try_out(program: str) -> int:
    """Starts a process that ends with status 0 if the program can be executed; its pid. Raises
    OSError."""
    argv = [sys.executable, *INTERPRETER, program, TRY, str(FORMAT)]
    return os.posix_spawn(argv[0], argv, os.environ, setsigmask=(), setsigdef=pool.HELD_BACK)


def execute(program: str, name: str, state: dict[str, Any], kept: Iterable[int]) -> NoReturn:
    """Executes the program, which reads the state. kept: the descriptors that stay open.

    Raises OSError, with all as it was."""
    kept = list(kept)
    memory = -1
    try:
        memory = os.memfd_create("spawn-server")
        text = json.dumps(state).encode()
        while text:
            text = text[os.write(memory, text) :]
        for descriptor in (*kept, memory):
            os.set_inheritable(descriptor, True)
        argv = [
            sys.executable,
            *INTERPRETER,
            program,
            *manager.now.option,
            name,
            RESUME,
            str(memory),
        ]
        os.execv(argv[0], argv)
    finally:
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
        if memory >= 0:
            os.close(memory)


def read(descriptor: int) -> dict[str, Any]:
    """What the program before has handed on."""
    with open(descriptor, "rb") as memory:
        memory.seek(0)
        found: dict[str, Any] = json.load(memory)
    return found


def state_of(crew: Crew, registrar: Registrar) -> dict[str, Any]:
    """What a server has in hand, as plain values."""
    return {
        "workers": [_of_worker(each) for each in crew.workers.values()],
        "next": [_of_held(each) for each in crew.next],
        "waiting": [each.connection.socket.fileno() for each in crew.turnstile.waiting()],
        "lobby": list(crew.lobby),
        "explaining": list(registrar.explaining),
        "records": [each.decode("latin-1") for each in registrar.outbox.waiting()],
        "lost": registrar.outbox.lost,
        "served": crew.served,
        "groups": crew.nursery.count,
        "descriptors": crew.nursery.descriptors,
    }


def resume(before: dict[str, Any], crew: Crew, registrar: Registrar) -> None:
    """Goes on with what the program before had in hand, but for what its parts were made with."""
    crew.served = before["served"]
    crew.able = True  # with all connections taken there is no room to show it
    for each in before["workers"]:
        crew.take_back(_worker_of(each))
    for each in before["next"]:
        held = _held_of(each)
        if crew.plan is not None:
            held.plan, held.known = crew.plan, True
        crew.count(held)
        crew.next.append(held)
    places = {number: place for place, number in enumerate(before["waiting"])}
    clients = [each.held for each in crew.workers.values() if each.held is not None]
    clients.sort(key=lambda held: places.get(held.connection.socket.fileno(), 0))
    for held in clients:
        crew.turnstile.take_back(held)
    for number in before["lobby"]:
        crew.lobby.keep(inherited(number))
    registrar.explaining.update(before["explaining"])
    crew.give_turns()


def _of_worker(worker: Worker) -> dict[str, Any]:
    """A worker as plain values."""
    return {
        "pid": worker.pid,
        "channel": worker.channel.fileno(),
        "group": worker.group,
        "ready": worker.ready,
        "retired": worker.retired,
        "untaken": worker.untaken,
        "late": worker.late,
        "fault": worker.fault,
        "deadline": worker.deadline,
        "held": None if worker.held is None else _of_held(worker.held),
    }


def _worker_of(found: dict[str, Any]) -> Worker:
    """The worker again, whose plan nobody knows any more."""
    channel = inherited(found["channel"])
    worker = Worker(found["pid"], channel, None, found["group"])
    for name in ("ready", "retired", "untaken", "late", "fault", "deadline"):
        setattr(worker, name, found[name])
    if found["held"] is not None:
        worker.held = _held_of(found["held"])
        worker.held.worker = worker
    return worker


def _of_held(held: Held) -> dict[str, Any]:
    """A connection as plain values."""
    settings, who = held.plan.service, held.plan.who
    return {
        "socket": held.connection.socket.fileno(),
        "service": settings.name,
        "file": settings.file,
        "command": settings.argv[0],
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "limits": [
            (each.section, each.key, each.value, each.file, each.line)
            for key in LIMITS.values()
            for each in settings.given.get(key, [])[-1:]
        ],
        "user": who.user,
        "remote": held.connection.remote,
        "source": held.source,
        "taken": held.taken,
        "turn": held.turn,
        "left": held.left,
        "waits_until": held.waits_until,
        "reported": held.reported,
    }


def _held_of(found: dict[str, Any]) -> Held:
    """The connection again, with as much of its plan as is known."""
    settings = Service(found["service"], found["file"])
    settings.standing = True
    settings.argv = [found["command"]]
    for name, value in found["settings"].items():
        setattr(settings, name, value)
    for limit in found["limits"]:  # a record says where the one was given that is over
        given = Assignment(*limit)
        settings.given[given.key] = [given]
    connection = Connection(inherited(found["socket"]), settings.name)
    if found["remote"] is not None:
        host, port = found["remote"]
        connection.remote = (host, port)
    plan = Plan(settings, Identity(found["user"], -1, -1, [], ""), "")
    held = Held(connection, plan, found["source"])
    held.known = False
    for name in ("taken", "turn", "left", "waits_until", "reported"):
        setattr(held, name, found[name])
    return held


def inherited(descriptor: int) -> socket.socket:
    """A socket that the program before had."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
