"""What counts for a service of xinetd: its own attributes, and those of the defaults, by the
operators and in the order that xinetd goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spawnhelper.moving.source import Found, Given
from spawnhelper.moving.xinetd import values
from spawnhelper.moving.xinetd.reader import Xinetd

# How many words an attribute has; None for any number.
WORDS: dict[str, int | None] = {
    "access_times": None,
    "banner": 1,
    "banner_fail": 1,
    "banner_success": 1,
    "bind": 1,
    "cps": 2,
    "deny_time": 1,
    "disable": 1,
    "disabled": None,
    "enabled": None,
    "env": None,
    "flags": None,
    "group": 1,
    "groups": 1,
    "id": 1,
    "instances": 1,
    "interface": 1,
    "libwrap": 1,
    "log_on_failure": None,
    "log_on_success": None,
    "log_type": None,
    "max_load": 1,
    "mdns": 1,
    "nice": 1,
    "no_access": None,
    "only_from": None,
    "passenv": None,
    "per_source": 1,
    "port": 1,
    "protocol": 1,
    "redirect": 2,
    "rlimit_as": 1,
    "rlimit_cpu": 1,
    "rlimit_data": 1,
    "rlimit_files": 1,
    "rlimit_rss": 1,
    "rlimit_stack": 1,
    "rpc_number": 1,
    "rpc_version": 1,
    "server": 1,
    "server_args": None,
    "socket_type": 1,
    "type": None,
    "umask": 1,
    "user": 1,
    "v6only": 1,
    "wait": 1,
}
# Those that += and -= work with, and of them those that a service has from the defaults as these
# are when it is read (xinetd.conf(5)).
LISTS = (
    "disabled",
    "enabled",
    "env",
    "log_on_failure",
    "log_on_success",
    "no_access",
    "only_from",
    "passenv",
)
COPIED = ("log_on_failure", "log_on_success", "no_access", "only_from", "passenv")
COPIED_WHOLE = ("banner", "banner_fail", "banner_success")
# What a service has from the defaults where it lacks it.
FILLED_IN = (
    "bind",
    "cps",
    "groups",
    "instances",
    "log_type",
    "max_load",
    "per_source",
    "umask",
    "v6only",
)
OF_DEFAULTS = ("disabled", "enabled", *COPIED, *COPIED_WHOLE, *FILLED_IN)


@dataclass(frozen=True)
class Ignored:
    """A line that xinetd ignores. why: the end of a sentence; "" for an unknown attribute."""

    given: Given
    why: str


def of_service(source: Xinetd, found: Found) -> tuple[dict[str, Given], list[Ignored]]:
    """What counts for a service, by word, and what xinetd ignores of its lines."""
    defaults, _ = of_defaults(source.defaults[: source.before[found.place]])
    every, _ = of_defaults(source.defaults)
    given = {
        word: each for word, each in defaults.items() if word in COPIED or word in COPIED_WHOLE
    }
    own, ignored = _merged(found.given, given)
    for word in FILLED_IN:
        if word in every and word not in own:
            own[word] = every[word]
    return own, ignored


def of_defaults(lines: list[Given]) -> tuple[dict[str, Given], list[Ignored]]:
    """What the section of defaults comes to, and what xinetd ignores of it."""
    merged, ignored = _merged(lines, {}, adding=True)
    for word, given in list(merged.items()):
        if word not in OF_DEFAULTS:
            ignored.append(Ignored(given, "it does not belong into the defaults"))
            del merged[word]
    return merged, ignored


def _merged(
    lines: list[Given], inherited: dict[str, Given], *, adding: bool = False
) -> tuple[dict[str, Given], list[Ignored]]:
    """adding: whether = is +=, as in the defaults."""
    merged = dict(inherited)
    ignored: list[Ignored] = []
    for given in lines:
        word = given.word
        if why := _why_ignored(given, word in merged and merged[word] is not inherited.get(word)):
            ignored.append(Ignored(given, "" if word not in WORDS else why))
        elif word not in LISTS or word not in merged or (given.operator == "=" and not adding):
            words = [] if given.operator == "-=" else given.words
            merged[word] = Given(word, list(words), given.place, given.text)
        else:
            merged[word] = _changed(merged[word], given)
    return merged, ignored


def _why_ignored(given: Given, already: bool) -> str:
    if given.word not in WORDS:
        return "unknown" if given.word else ""
    wanted = WORDS[given.word]
    if given.operator != "=" and given.word not in LISTS:
        return f"the operator {given.operator} does not work with it"
    if already and given.word not in LISTS:
        return "the attribute has been given above, and the first line counts"
    if wanted is not None and len(given.words) != wanted:
        return f"it has {len(given.words)} words instead of {wanted}"
    return ""


def _changed(before: Given, given: Given) -> Given:
    """A list with words added, or taken out."""
    if given.operator == "-=" and given.word in ("only_from", "no_access"):
        words = values.taken_out(before.words, given.words)
    elif given.operator == "-=":
        words = [word for word in before.words if word not in given.words]
    else:
        words = before.words + given.words
    text = given.word if given.text == given.word else f"{given.word} = {' '.join(words)}"
    return Given(given.word, words, given.place, text)


def is_off(source: Xinetd, found: Found, given: Callable[[str], str]) -> str:
    """Why the service is switched off, "" if it is not. given: the value of an attribute of the
    service by its name, "" without."""
    every, _ = of_defaults(source.defaults)
    name = given("id") or found.name
    if given("disable").lower() == "yes":
        return "disable = yes"
    if "enabled" in every and name not in every["enabled"].words:
        return f"enabled in the defaults ({every['enabled'].place}) does not name it"
    if "disabled" in every and name in every["disabled"].words:
        return f"disabled in the defaults ({every['disabled'].place}) names it"
    return ""
