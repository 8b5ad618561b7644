"""The words for what became of a connection, each defined once."""

from __future__ import annotations

from spawnhelper import manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os  # os.py costs a tenth of an interpreter start

# Priorities of syslog(3).
ERR, WARNING, NOTICE = 3, 4, 5

# SPAWN_RESULT= of the record. The command ran, and ended by itself ...
SUCCESS = "success"
EXIT_CODE = "exit-code"
SIGNAL = "signal"
CORE_DUMP = "core-dump"
UNDELIVERED = "undelivered"  # as success, but for an answer that has not arrived
# ... or was ended ...
TIME_LIMIT = "time-limit"
IDLE_LIMIT = "idle-limit"
SIZE_LIMIT = "size-limit"
STOPPED = "stopped"
ENDED = (
    SUCCESS,
    EXIT_CODE,
    SIGNAL,
    CORE_DUMP,
    UNDELIVERED,
    TIME_LIMIT,
    IDLE_LIMIT,
    SIZE_LIMIT,
    STOPPED,
)
# ... or never ran.
DENIED = "denied"
QUEUE_LIMIT = "queue-limit"
HEALTH_CHECK = "health-check"
CONFIG = "config"
EXEC_FAILED = "exec-failed"
RESOURCES = "resources"
NEVER_RAN = (DENIED, QUEUE_LIMIT, HEALTH_CHECK, CONFIG, EXEC_FAILED, RESOURCES, STOPPED)
# No connection: a listener that had failed is back, or cannot be; or systemd dropped connections.
LISTENING_AGAIN = "listening-again"
CANNOT_LISTEN = "cannot-listen"
CONNECTION_LIMIT = "connection-limit"
LISTENER = (LISTENING_AGAIN, CANNOT_LISTEN, CONNECTION_LIMIT)
# What many connections came to, of which each is one of these (Log=summary).
SUMMARY = "summary"
SUMMED = (SUCCESS, HEALTH_CHECK)
# Nothing to look after: a client that a rule denies is as it should be.
HARMLESS = (SUCCESS, STOPPED, HEALTH_CHECK, SUMMARY)
NO_FAILURE = (*HARMLESS, DENIED)

LONGEST_PIECE = 80  # of a file, in a sentence
# How the keys end whose values no sentence has: settings.py marks them as secret. A backslash too
# many at the end of a line, or a line end too few, makes such a line a piece of another's value.
SECRET = "Environment"


def shown(text: str, longest: int = LONGEST_PIECE) -> str:
    """A piece of a file as a sentence can carry it: one bounded line without control characters,
    and without what is secret."""
    before, secret, behind = text.partition(SECRET)
    if behind:
        text = f"{before}{secret}..."
    escaped = printable(text[: longest + 1])
    return escaped if len(escaped) <= longest else escaped[: longest - 3] + "..."


def printable(text: str) -> str:
    """The text with all that is not for the eye escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


class Problem:
    """What is wrong at one place of a service file, and what would be right, as one sentence."""

    __slots__ = ("file", "line", "sentence")

    def __init__(self, file: str, line: int | None, sentence: str) -> None:
        self.file = file
        self.line = line
        self.sentence = sentence

    def __str__(self) -> str:
        file = printable(self.file)
        place = file if self.line is None else f"{file}:{self.line}"
        return f"{place}: {self.sentence}"


class Refusal(Exception):
    """The command does not run; str() is the sentence for the record and for `spawnctl check`.

    result: a word of SPAWN_RESULT=. status: the helper's exit status, from sysexits.h.
    problems: what is wrong in which file; empty where no file is to blame. answer: what the client
    is told; nothing, but for a banner. services: whose the connection can be, where nobody can tell
    which it is.
    """

    def __init__(
        self,
        result: str,
        status: int,
        sentence: str = "",
        problems: tuple[Problem, ...] = (),
        answer: bytes = b"",
    ) -> None:
        super().__init__(sentence)
        self.result = result
        self.status = status
        self.sentence = sentence
        self.problems = problems
        self.answer = answer
        self.services: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.problems:
            return self.sentence
        first, more = self.problems[0], len(self.problems) - 1
        check = f"{manager.now.words('spawnctl')} check {first.file}"
        return f"{first} (and {more} more: {check})" if more else str(first)


def misconfigured(*problems: Problem, status: int = os.EX_CONFIG) -> Refusal:
    """The Refusal for a service file that cannot be followed."""
    return Refusal(CONFIG, status, problems=problems)
