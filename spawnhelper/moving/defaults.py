"""What /etc/spawn.conf says for all services must not widen one that comes from elsewhere."""

from __future__ import annotations

from spawnhelper.conf import syntax
from spawnhelper.conf.settings import KEYS
from spawnhelper.moving.draft import Draft, Line
from spawnhelper.moving.job import ANEW
from spawnhelper.moving.source import Given, Place, Unreadable, read

# Those that keep out more the more there is of them ...
STRICT = ("DenyFrom", "RefuseUsers")
# ... and those that keep out who is not in them, unless the service has such rules of its own.
CLOSING = {"AllowFrom": ("AllowFrom", "DenyFrom"), "AccessTimes": ("AccessTimes",)}


def begin_anew(drafts: list[Draft], file: str) -> None:
    """Resets in each draft what the defaults would add to it, or set otherwise."""
    try:
        text = read(file)
    except Unreadable:
        return  # no service runs with such a file, and check says so
    lines = syntax.parse(text.lines, file, ("Spawn",))[0]
    given = {each.key: each for each in lines if each.key in KEYS}
    for draft in drafts:
        for key, line in given.items():
            if _counts(draft, key):
                draft.lines.insert(0, Line("Spawn", key, ""))
                place = Place(line.file, line.line)
                draft.say(ANEW, Given(key, [], place, f"{key}="))


def _counts(draft: Draft, key: str) -> bool:
    """Whether the defaults of this key would reach the service, and be more than a further
    restriction."""
    if key in STRICT:
        return False
    if key in CLOSING:
        return any(draft.values(each) for each in CLOSING[key])
    return KEYS[key].repeats or not draft.values(key)
