"""main.cf of Postfix (postconf(5)): its parameters, and what $ in a value stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from spawnhelper.moving.source import Text

# What Postfix has where main.cf is silent, as far as spawn(8) and its listeners go by it.
DEFAULTS = {
    "alternate_config_directories": "",
    "command_time_limit": "1000s",
    "config_directory": "/etc/postfix",
    "default_process_limit": "100",
    "export_environment": "TZ MAIL_CONFIG LANG",
    "inet_interfaces": "all",
    "inet_protocols": "all",
    "mail_name": "Postfix",
    "mail_owner": "postfix",
    "master_service_disable": "",
    "multi_instance_name": "",
    "process_name": "spawn",
    "queue_directory": "/var/spool/postfix",
    "syslog_facility": "mail",
    "syslog_name": "${multi_instance_name?{$multi_instance_name}:{postfix}}",
}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
DEEPEST = 20  # one parameter in the other
LONGEST = 1 << 16  # characters of a value, once all is filled in
REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{|\()")
CONDITION = re.compile(r"\s*(\w+)\s*(?:([?:])(.*))?", re.DOTALL)


class Unknown(Exception):
    """A value cannot be told; str() is what keeps it from that."""


@dataclass
class Parameters:
    """What main.cf says. file: its path, "" where there is none. lines: by name, where each was
    given last."""

    file: str = ""
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def with_options(self, options: dict[str, str]) -> Parameters:
        """The same with what a line of master.cf sets otherwise."""
        return Parameters(self.file, self.values | options, self.lines)

    def get(self, name: str) -> str:
        """The value of a parameter, Postfix's default where it is not given; Unknown where it hangs
        on something that is not known."""
        if name not in self.values and name not in DEFAULTS:
            raise Unknown(f"${name}")
        return self.expanded(self.values.get(name, DEFAULTS.get(name, "")), (name,))

    def given(self, name: str) -> str | None:
        """The value of a parameter that has no default here, None where it is not given."""
        return self.get(name) if name in self.values else None

    def expanded(self, text: str, inside: tuple[str, ...] = ()) -> str:
        """The text with what its $names stand for. inside: the parameters that led here."""
        if len(inside) > DEEPEST:
            raise Unknown(f"${inside[-1]}")
        made = ""
        while found := REFERENCE.search(text):
            made += text[: found.start()]
            text = text[found.end() :]
            if found[1]:
                made += "$"
            elif found[2]:
                made += self._referred(found[2], inside)
            else:
                inner, text = _enclosed(text, found[0][-1])
                made += self._conditional(inner, inside)
            if len(made) > LONGEST:
                raise Unknown("a value without end")
        return made + text

    def _referred(self, name: str, inside: tuple[str, ...]) -> str:
        if name in inside or (name not in self.values and name not in DEFAULTS):
            raise Unknown(f"${name}")
        return self.expanded(self.values.get(name, DEFAULTS.get(name, "")), (*inside, name))

    def _conditional(self, inner: str, inside: tuple[str, ...]) -> str:
        """What is between the braces of ${name}, ${name?text}, ${name:text} or ${name?{a}:{b}}."""
        found = CONDITION.fullmatch(inner)
        if found is None:  # a comparison, for one
            raise Unknown(f"${{{inner}}}")
        name, operator, text = found.groups()
        if not operator:
            return self._referred(name, inside)
        has = bool(self.values.get(name, DEFAULTS.get(name, "")))
        first, second = _alternatives(text)
        if operator == ":":
            first, second = second, first
        return self.expanded(first if has else second, inside)


def _enclosed(text: str, opening: str) -> tuple[str, str]:
    """What is up to the closing brace of an opening one, and what is behind it."""
    closing = "}" if opening == "{" else ")"
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == opening) - (letter == closing)
        if depth == 0:
            return text[:at], text[at + 1 :]
    raise Unknown(f"${opening}{text}")


def _alternatives(text: str) -> tuple[str, str]:
    """The text, or both of {a}:{b}."""
    text = text.strip()
    if not text.startswith("{"):
        return text, ""
    first, rest = _enclosed(text[1:], "{")
    rest = rest.strip().removeprefix(":").strip()
    second = _enclosed(rest[1:], "{")[0] if rest.startswith("{") else rest
    return first.strip(), second.strip()


def parse(text: Text) -> Parameters:
    """The parameters of main.cf; of those that are given twice the last value."""
    found = Parameters(text.file)
    for numbers, line in logical_lines(text):
        name, equals, value = line.partition("=")
        if equals and name.strip():
            found.values[name.strip()] = value.strip()
            found.lines[name.strip()] = numbers[0]
    return found


def logical_lines(text: Text) -> list[tuple[list[int], str]]:
    """The lines of a file of Postfix, those that begin with white space joined to the one before:
    the numbers of all, and the text. Empty lines and comments do not end one (postconf(5))."""
    found: list[tuple[list[int], str]] = []
    for number, line in enumerate(text.lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and found:
            found[-1][0].append(number)
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        else:
            found.append(([number], line.strip()))
    return found


def seconds(text: str) -> int:
    """A time of postconf(5), a number with one of s m h d w; ValueError for none, or for zero."""
    digits, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "s")
    if unit not in UNITS or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise ValueError
    if int(digits) == 0:
        raise ValueError
    return int(digits) * UNITS[unit]
