"""What became of a connection to its one journal entry. Loaded after the fork."""

from __future__ import annotations

import sys

from spawnhelper import manager, outcome
from spawnhelper.conf.settings import KEYS
from spawnhelper.outcome import ERR, NOTICE, WARNING, printable, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.outcome import Refusal
    from spawnhelper.stages.serve import Ended
else:
    import _signal as signal
    import posix as os

JOURNAL = "/run/systemd/journal/socket"
# Seconds. In a burst journald can be that far behind; and whoever waits counts against
# MaxConnections=.
SEND_TIME = 10.0
DAEMON = 3  # syslog(3)
LIMITS = {
    outcome.TIME_LIMIT: "TimeLimit",
    outcome.IDLE_LIMIT: "IdleLimit",
    outcome.SIZE_LIMIT: "SizeLimit",
}
MESSAGE_IDS = {
    outcome.SUCCESS: "fcaaa835aa6a4e84a066789e1b15fc45",
    outcome.EXIT_CODE: "708025cf701b4a118d42784cd1e30bd0",
    outcome.SIGNAL: "4457e5ad5b0b4d408008c81648e2b319",
    outcome.CORE_DUMP: "3681debed0fb49c19b745d2015a8d887",
    outcome.UNDELIVERED: "eb1857d85a6f4a679bc44822f4e37159",
    outcome.TIME_LIMIT: "1f6e1160c0f149c6bc2f1da7d654dff1",
    outcome.IDLE_LIMIT: "12dac95bcf73449cafaa19f800fda2cd",
    outcome.SIZE_LIMIT: "d3e9365e992440b29304bb1215ad2ce5",
    outcome.DENIED: "9a08dd40f5fc44b68a970c1f9b6c045e",
    outcome.QUEUE_LIMIT: "3b9101072f0a4911964aa68b88ff4ad6",
    outcome.HEALTH_CHECK: "4dff3ed01f404c999bce221520be0124",
    outcome.STOPPED: "4f36f34725fd4506a74d6421464bd408",
    outcome.CONFIG: "7dd1571c878e4f5bbf5ca3bc9f9fccf4",
    outcome.EXEC_FAILED: "7b844c7f1c6747a6b6ed96070e2a6768",
    outcome.LISTENING_AGAIN: "48dee8c41ebb46f9a3a41a25151077ac",
    outcome.CANNOT_LISTEN: "b533fad5fae249b3bcaa5966df54e719",
    outcome.CONNECTION_LIMIT: "121e791680c34c93bbb3a8a9df0c5fe8",
    outcome.RESOURCES: "6d24db39081741f280f7c672e37e4449",
    outcome.SUMMARY: "36fd0cc092294ad8baab304d063f45c6",
}


def of_end(
    unit: str,
    connection: Connection,
    service: Service,
    user: str,
    ended: Ended,
) -> list[str]:
    """The fields for a command that ran, as this user."""
    command = service.argv[0]
    fate, exit_fields = exit_of(ended.status)
    if ended.result == outcome.STOPPED:
        fate = f"stopped, {fate}"
    elif key := LIMITS.get(ended.result):
        fate = f"over {_limit(service, key)}, {fate}"
    what = f"{shown(command)} as {user}"
    duration = span(ended.duration)
    sentence = f"{service.name}: {what}: {fate} after {duration}, client {client_of(connection)}"
    if ended.undelivered:
        sentence += f"; {counted(ended.undelivered, 'byte')} of the answer not delivered"
    if ended.killed:
        sentence += f"; {counted(ended.killed, 'process', 'processes')} left behind, and killed"
    priority = NOTICE if ended.result in outcome.HARMLESS else WARNING
    fields = [
        *head(sentence, priority, ended.result, service),
        *exit_fields,
        *_whence(unit, connection),
        *of_service(unit, service.name),
        f"SPAWN_COMMAND={command}",
        f"SPAWN_USER={user}",
        f"SPAWN_PID={ended.pid}",
        f"SPAWN_DURATION_USEC={ended.duration}",
        f"SPAWN_CPU_USEC={ended.cpu}",
        f"SPAWN_MAXRSS_BYTES={ended.peak}",
    ]
    measures = {
        "SPAWN_WAITED_USEC": connection.waited,
        "SPAWN_BYTES_IN": ended.came,
        "SPAWN_BYTES_OUT": ended.out,
        "SPAWN_BYTES_UNDELIVERED": ended.undelivered or None,
        "SPAWN_KILLED": ended.killed or None,
    }
    fields += [f"{field}={count}" for field, count in measures.items() if count is not None]
    return fields


def of_refusal(
    unit: str,
    connection: Connection | None,
    service_name: str,
    service: Service | None,
    refusal: Refusal,
) -> list[str]:
    """The fields for a command that did not run. service_name is empty where nobody knows it: then
    the refusal may have several. service: None where it could not be read."""
    names = (service_name,) if service_name else refusal.services
    client = f", client {client_of(connection)}" if connection else ""
    what = "the helper failed" if refusal.status == os.EX_SOFTWARE else "no command was run"
    sentence = f"{' or '.join(names) or 'spawnhelper'}: {what}: {refusal}{client}"
    turned_away = refusal.result in (outcome.DENIED, outcome.QUEUE_LIMIT)
    priority = WARNING if turned_away else ERR
    if refusal.result in outcome.HARMLESS:
        priority = NOTICE
    fields = head(sentence, priority, refusal.result, service)
    if connection:
        fields += _whence(unit, connection)
    elif unit:
        fields.append(f"SPAWN_UNIT={unit}")
    for name in names:
        fields += of_service(unit, name)
    if refusal.problems:  # as systemd marks what it says about a unit file
        fields.append(f"CONFIG_FILE={refusal.problems[0].file}")
        if refusal.problems[0].line is not None:
            fields.append(f"CONFIG_LINE={refusal.problems[0].line}")
    return fields


def of_listener(name: str, unit: str, result: str, why: str = "") -> list[str]:
    """The fields for a listener that had failed: it is back, or cannot be yet. why: as far as it is
    known."""
    if result == outcome.LISTENING_AGAIN:
        fate = "had failed and listens again; connections meanwhile were refused"
    else:
        why = why or (
            f"{manager.now.words('systemctl')} status says why, and where the machine does not "
            "have the address yet, FreeBind=yes does not wait for it"
        )
        fate = f"cannot listen: {why}; it is tried again every 10s"
    return [
        *head(f"{name}: {unit} {fate}", WARNING, result),
        *of_service(unit, name),
        f"SPAWN_UNIT={unit}",
    ]


def of_dropped(service: Service, count: int) -> list[str]:
    """The fields for connections that systemd, or a standing server, dropped above a limit: how
    many since this was last said."""
    unit = f"spawn@{service.name}.socket"
    were = "connection was" if count == 1 else "connections were"
    sentence = f"{count} {were} dropped above MaxConnections={service.max_connections}"
    if service.standing:
        sentence = f"{count} {were} dropped above MaxConnectionsPerSource={service.per_source}"
    elif service.per_source:
        sentence += " or MaxConnectionsPerSource="
    return [
        *head(f"{service.name}: {sentence}", WARNING, outcome.CONNECTION_LIMIT, service),
        *of_service(unit, service.name),
        f"SPAWN_UNIT={unit}",
        f"SPAWN_DROPPED={count}",
    ]


def wanted(log: str, result: str) -> bool:
    """Whether Log= has this outcome recorded: it is about commands that ran, and about checks of
    whether they would."""
    if result in outcome.SUMMED:
        return log == "all"
    return log != "none" or result not in outcome.ENDED


def write(fields: list[str], *, foreground: bool) -> None:
    """One journal entry. Standard error has all of it where there is no journal or no library to
    reach it, and its sentence where a person has the helper in the foreground."""
    if not _sent(fields):
        said = fields
    elif foreground:
        said = fields[:1]
    else:
        return
    print("\n    ".join(said).removeprefix("MESSAGE="), file=sys.stderr)


def _sent(fields: list[str]) -> bool:
    try:
        os.stat(JOURNAL)  # without it sendv() does nothing, and raises nothing
        from systemd import _journal

        # journald may be stuck, and its socket full: the alarm interrupts sendmsg(2).
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, SEND_TIME)
        _journal.sendv(*(field.encode(errors="surrogateescape") for field in fields))
    except (OSError, ImportError):
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True


def head(sentence: str, priority: int, result: str, service: Service | None = None) -> list[str]:
    """The fields that each record has."""
    identifier = service.syslog_identifier if service else None
    return [
        f"MESSAGE={sentence}",
        f"MESSAGE_ID={MESSAGE_IDS[result]}",
        f"PRIORITY={priority}",
        f"SYSLOG_IDENTIFIER={identifier or 'spawn'}",
        f"SYSLOG_FACILITY={service.syslog_facility if service else DAEMON}",
        f"SPAWN_RESULT={result}",
    ]


def of_service(unit: str, name: str) -> list[str]:
    """Whose entry it is. Of its two units people ask systemctl(1) and journalctl(1), which show
    what their manager says about them; neither is there for what runs without a unit."""
    fields = [f"SPAWN_SERVICE={name}"]
    if unit:
        object_unit = f"OBJECT_{manager.now.unit}"
        fields.append(f"{object_unit}=spawn@{name}.socket")
        fields.append(f"{object_unit}=spawn@{name}.service")
    return fields


def _whence(unit: str, connection: Connection) -> list[str]:
    fields = [f"SPAWN_UNIT={unit}"] if unit else []
    if connection.local is not None:
        fields.append(f"SPAWN_LOCAL_ADDR={connection.local[0]}")
        fields.append(f"SPAWN_LOCAL_PORT={connection.local[1]}")
    elif connection.path is not None:
        fields.append(f"SPAWN_LOCAL_ADDR={connection.path}")
    if connection.remote is not None:
        fields.append(f"SPAWN_REMOTE_ADDR={connection.remote[0]}")
        fields.append(f"SPAWN_REMOTE_PORT={connection.remote[1]}")
    if connection.proxy is not None:
        fields.append(f"SPAWN_PROXY_ADDR={connection.proxy[0]}")
    if connection.proxy is not None and connection.path is None:
        fields.append(f"SPAWN_PROXY_PORT={connection.proxy[1]}")
    if connection.peer is not None:
        pid, uid, _ = connection.peer
        fields.append(f"SPAWN_REMOTE_UID={uid}")
        fields.append(f"SPAWN_REMOTE_PID={pid}")
    return fields


def client_of(connection: Connection) -> str:
    """Who called, as a sentence has it."""
    if connection.local is None and connection.peer is not None:
        pid, uid, _ = connection.peer
        return f"pid {pid} of uid {uid}"
    if connection.remote is None:
        return "gone"
    host, port = connection.remote
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def exit_of(status: int | None) -> tuple[str, list[str]]:
    """How a process ended in words, and as systemd writes it (systemd.exec(5), $EXIT_CODE)."""
    if status is None:
        return "killed, and not yet gone", []
    if os.WIFEXITED(status):
        number = os.WEXITSTATUS(status)
        return f"exit status {number}", ["EXIT_CODE=exited", f"EXIT_STATUS={number}"]
    name = _signal_name(os.WTERMSIG(status))
    if os.WCOREDUMP(status):
        return f"killed by SIG{name}, core dumped", ["EXIT_CODE=dumped", f"EXIT_STATUS={name}"]
    return f"killed by SIG{name}", ["EXIT_CODE=killed", f"EXIT_STATUS={name}"]


def _signal_name(number: int) -> str:
    """The signal's name without SIG."""
    for name in dir(signal):
        if name.startswith("SIG") and name[3] != "_" and getattr(signal, name) == number:
            return name.removeprefix("SIG")
    return f"RTMIN+{number - signal.SIGRTMIN}"


def _limit(service: Service, key: str) -> str:
    """A limit as the file has it, and where."""
    given = service.given.get(key)
    if not given:
        return f"{key}={KEYS[key].default_text}"
    return f"{key}={shown(given[-1].value)} ({printable(given[-1].file)}:{given[-1].line})"


def counted(count: int, one: str, many: str = "") -> str:
    """So many of these, in words. many: the plural, where that is not the word and an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def span(usec: int) -> str:
    """A time span for a person: three digits that matter, in the unit that fits."""
    if usec < 999_500:  # what would be 1000ms with three digits
        return f"{usec / 1_000:.3g}ms"
    if usec < 60_000_000:
        return f"{usec / 1_000_000:.3g}s"
    minutes, seconds = divmod(usec // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}min {seconds}s" if hours else f"{minutes}min {seconds}s"
