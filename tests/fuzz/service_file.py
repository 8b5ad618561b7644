"""Service files of any content: each is a service or gets sentences, and nobody reads it in two
ways."""

from __future__ import annotations

from pathlib import Path

from spawnhelper.conf import dropins, listeners, service, syntax
from spawnhelper.conf.settings import KEYS
from spawnhelper.conf.values import CONNECTION_VARIABLES
from spawnhelper.outcome import CONFIG, Refusal

FILE = Path("/run/spawn-fuzz/any.conf")
WORDS = [
    b"[Socket]",
    b"[Spawn]",
    b"[Service]",
    b"Accept=no\n",
    b"RestrictAddressFamilies=",
    b"InaccessiblePaths=/",
    b"[X-",
    b"\\\n",
    b"\n#",
    b"ListenStream=",
    b"127.0.0.1:",
    b"MaxConnections=",
    *(f"{key}=".encode() for key in KEYS),
    *(setting.default_text.encode() for setting in KEYS.values()),
]


def one(octets: bytes) -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(octets)
    file = str(FILE)
    try:
        loaded = service.load(file)
    except Refusal as refusal:
        complains(refusal, octets)
    else:
        can_be_followed(loaded)
    claimed = {(each.line, each.text) for each in listeners.claimed(file)}
    try:
        made = dropins.made(file)
    except Refusal as refusal:
        complains(refusal, octets)
        return
    told = service.unit_sections(file)[0]
    standing = service.is_standing(told)
    assert len(made) == 1 + standing
    for text, section, ours in (
        (next(iter(made.values())), "Socket", 2 + 3 * standing),
        *((text, "Service", 2) for text in list(made.values())[1:]),
    ):
        read, wrong = syntax.parse(text.split("\n"), file, ("Unit", section))
        said = [(each.key, each.value) for each in read if each.section == section]
        meant = [
            (each.key, each.value)
            for each in told
            if each.section == section and (section, each.key) != ("Socket", "Accept")
        ]
        assert said[ours:] == meant, "systemd is told another"
        assert wrong == []
    assert claimed == {(each.line, each.text) for each in listeners.claimed(file)} != set()


def complains(refusal: Refusal, octets: bytes) -> None:
    """What is wrong, and where: in one line a problem, at a line that there is."""
    assert refusal.result == CONFIG
    for problem in refusal.problems:
        assert problem.file == str(FILE)
        assert problem.line is None or 1 <= problem.line <= octets.count(b"\n") + 1
        assert str(problem).isprintable(), str(problem)
        assert len(problem.sentence) < 400, problem.sentence
    assert refusal.problems


def can_be_followed(loaded: service.Service) -> None:
    """Nothing is in it that would end the helper later than here."""
    assert loaded.user
    assert loaded.user[0]
    assert loaded.argv[0]
    texts = [*loaded.argv, *loaded.environment, *loaded.environment.values(), loaded.argv0 or ""]
    assert not any("\0" in text for text in texts)
    for text in texts:
        text.encode()
    assert not set(loaded.environment) & set(CONNECTION_VARIABLES)
    assert all("=" not in name for name in loaded.environment)
    spans = (loaded.time_limit, loaded.idle_limit, loaded.queue_limit, loaded.kill_delay)
    assert all(span is None or 0 <= span < 1 << 63 for span in spans)
    assert loaded.size_limit is None or 0 <= loaded.size_limit < 1 << 63
    for soft, hard in loaded.limits().values():
        assert -1 <= soft < 1 << 63
        assert hard == -1 or -1 < soft <= hard < 1 << 63
