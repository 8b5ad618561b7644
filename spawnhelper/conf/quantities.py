"""The text of a time span, a size, a number or a resource limit to what it means.

Raises ValueError as the functions of values do.
"""

from __future__ import annotations

from spawnhelper.conf.values import DIGITS, consists_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USEC_PER_SEC = 1_000_000
# systemd.time(7), "Displaying time spans": a month is 30.44 days, a year 365.25.
TIME_UNITS = {
    unit: factor
    for units, factor in (
        ("usec us \N{MICRO SIGN}s \N{GREEK SMALL LETTER MU}s", 1),
        ("msec ms", 1_000),
        ("seconds second sec s", USEC_PER_SEC),
        ("minutes minute min m", 60 * USEC_PER_SEC),
        ("hours hour hr h", 3_600 * USEC_PER_SEC),
        ("days day d", 86_400 * USEC_PER_SEC),
        ("weeks week w", 604_800 * USEC_PER_SEC),
        ("months month M", 2_629_800 * USEC_PER_SEC),
        ("years year y", 31_557_600 * USEC_PER_SEC),
    )
    for unit in units.split()
}
UNIT_CHARACTERS = "".join(TIME_UNITS)
MOST_DIGITS = 18  # of a number; a uint64_t has twenty
SIZE_UNITS = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
UNLIMITED = -1  # RLIM_INFINITY, as setrlimit(2) takes it here
LARGEST = (1 << 63) - 1


def time_span(text: str, bare: str = "s") -> int | None:
    """A time span of systemd.time(7) in microseconds; infinity is None. bare: the unit of a number
    without one."""
    if text == "infinity":
        return None
    wrong = "is not a time span; write for example 90s, 1h 30min or infinity"
    total = 0
    rest = text
    while rest:
        number = _leading(rest, DIGITS)
        rest = rest[len(number) :]
        fraction = ""
        if rest.startswith("."):
            fraction = _leading(rest[1:], DIGITS)
            rest = rest[1 + len(fraction) :]
            if not fraction or rest.startswith("."):
                raise ValueError(wrong)
        if not number + fraction or len(number + fraction) > MOST_DIGITS:
            raise ValueError(wrong)
        rest = rest.lstrip()
        unit = _leading(rest, UNIT_CHARACTERS)
        rest = rest[len(unit) :].lstrip()
        if unit and unit not in TIME_UNITS:
            raise ValueError(wrong)
        factor = TIME_UNITS[unit or bare]
        total += int(number or "0") * factor
        total += int(fraction or "0") * factor // 10 ** len(fraction)
    if not text or total > LARGEST:
        raise ValueError(wrong)
    return total


def positive_time_span(text: str) -> int | None:
    """A time span above zero, in microseconds; infinity is None."""
    span = time_span(text)
    if span == 0:
        raise ValueError("leaves no time at all; write a span above 0, or infinity for no limit")
    return span


def bounded_time_span(shortest: int, longest: int) -> Callable[[str], int]:
    """A parser of time spans from `shortest` to `longest` seconds, in microseconds."""

    def parse(text: str) -> int:
        span = time_span(text)
        fault = ""
        if span is None or span > longest * USEC_PER_SEC:
            fault = "is too long"
        elif span < shortest * USEC_PER_SEC:
            fault = "is too short"
        if span is None or fault:
            raise ValueError(f"{fault}; write a span from {shortest}s to {longest}s")
        return span

    return parse


def size(text: str) -> int | None:
    """A number of bytes, with K, M, G, T, P or E to the base 1024; infinity is None."""
    if text == "infinity":
        return None
    digits = text.rstrip("".join(SIZE_UNITS))
    unit = text[len(digits) :]
    whole, point, fraction = digits.rstrip(" ").partition(".")
    wrong = "is not a size; write for example 4096, 64K, 1.5M or infinity"
    if (
        unit not in SIZE_UNITS
        or not consists_of(whole, DIGITS)
        or len(whole + fraction) > MOST_DIGITS
    ):
        raise ValueError(wrong)
    if point and not consists_of(fraction, DIGITS):
        raise ValueError(wrong)
    total = int(whole + fraction) << SIZE_UNITS[unit]
    total //= 10 ** len(fraction)
    if total > LARGEST:
        raise ValueError(wrong)
    return total


def integer(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        digits = text[1:] if text[:1] in ("-", "+") else text
        if not consists_of(digits, DIGITS) or len(digits) > MOST_DIGITS:
            raise ValueError(f"is not a number; write one from {least} to {most}")
        if not least <= int(text) <= most:
            raise ValueError(f"is out of range; write a number from {least} to {most}")
        return int(text)

    return parse


def or_infinity(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """A parser of the same, or of infinity, which is None."""

    def parse_or(text: str) -> int | None:
        return None if text == "infinity" else parse(text)

    return parse_or


def limits(parse: Callable[[str], int | None]) -> Callable[[str], tuple[int, int]]:
    """A parser of `soft:hard`, or of one value for both (systemd.exec(5), "LimitCPU=")."""

    def parse_pair(text: str) -> tuple[int, int]:
        soft, colon, hard = text.partition(":")
        pair = [parse(part) for part in ((soft, hard) if colon else (soft, soft))]
        if pair[1] is not None and (pair[0] is None or pair[0] > pair[1]):
            raise ValueError("has a soft limit above the hard one; write SOFT:HARD")
        low, high = (UNLIMITED if value is None else value for value in pair)
        return low, high

    return parse_pair


def seconds(text: str) -> int | None:
    """A time span in seconds, rounded up."""
    span = time_span(text)
    return None if span is None else -(-span // USEC_PER_SEC)


def microseconds(text: str) -> int | None:
    """A time span in microseconds, as which a number without a unit counts, too."""
    return time_span(text, "us")


def count(text: str) -> int | None:
    """A whole number; infinity is None."""
    if text == "infinity":
        return None
    if not consists_of(text, DIGITS) or len(text) > MOST_DIGITS:
        raise ValueError("is not a number; write for example 1024, 512:1024 or infinity")
    return int(text)


def nice_limit(text: str) -> int | None:
    """How nice a process may become: a nice level with its sign, or 1 to 40 as the kernel counts
    (getrlimit(2), RLIMIT_NICE)."""
    if text == "infinity":
        return None
    sign, digits = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
    if consists_of(digits, DIGITS) and len(digits) <= 2:
        raw = int(digits) if not sign else 20 - int(text)
        if 1 <= raw <= 40:
            return raw
    raise ValueError("is no limit of niceness; write -20 to +19 with the sign, or 1 to 40")


def _leading(text: str, characters: str) -> str:
    return text[: len(text) - len(text.lstrip(characters))]
