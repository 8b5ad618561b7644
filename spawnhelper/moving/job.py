"""What the three sources have in common: the account, the command, and who may listen where."""

from __future__ import annotations

from spawnhelper.conf import listeners, values
from spawnhelper.conf.settings import KEYS
from spawnhelper.moving import wrappers
from spawnhelper.moving.access import Rules, lists
from spawnhelper.moving.draft import Draft, command_line, quoted, speaks
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.source import Given, Unreadable
from spawnhelper.moving.traps import Trap, note, refusal

REFUSED = "postfix"  # by RefuseUsers= where a service file does not say otherwise

ROOT = refusal(
    "the command runs as root, and here no command does",
    "give it an account; see SERVICES THAT NEED ROOT in spawnhelper(8)",
)
ROOT_GROUP = refusal(
    "the command has the group of root, and here no command has",
    "give it another group; see SERVICES THAT NEED ROOT in spawnhelper(8)",
)
OF_POSTFIX = refusal(
    "the account or group {name} is one of RefuseUsers=, which has {owner}",
    "give the command an account of its own",
)
NO_ACCOUNT_NAME = refusal("{name} cannot be the name of an account or group", "correct the source")
NOT_TEXT = refusal(
    "it has a NUL, or a byte that is not UTF-8, and a service file can have neither",
    "write the service file by hand, with a script that has these bytes",
)
BAD_VALUE = refusal(
    "as {key}= of a service file it {why}", "or correct the source and run this again"
)
SEARCHED = Trap(
    "a command without a path is looked up in /usr/local/sbin, /usr/local/bin, /usr/sbin and "
    "/usr/bin, in this order",
    "write its absolute path in Argv=",
    key="Argv",
)
NO_PORT = refusal(
    "{name} is no TCP port in /etc/services of this machine", "write the number in the source"
)
NAME_OF_HOST = refusal(
    "{name} is the name of a host, and these are looked up with --resolve only",
    "use --resolve, or write its address in the source",
)
NO_HOST = refusal("{name} has no address now", "write its address in the source")
RESOLVED = Trap(
    "{name} has become the addresses that it has today",
    "change ListenStream= when they change",
    key="ListenStream",
)
UNREADABLE_RULES = refusal(
    "hosts.allow or hosts.deny, which say who may connect, {why}", "run this as root"
)
UNSAID_RULE = refusal(
    "the line {place} of hosts_access(5) says more about who may connect than addresses can: "
    "{line}",
    "replace it by addresses and networks there, or by a packet filter",
)
CLOSED_RULE = Trap(
    "the names of the line {place} of hosts_access(5) are left out, and let in nobody: {line}",
    "use --resolve, or write their addresses in AllowFrom=",
    key="AllowFrom",
)
UNENDED_RULE = refusal(
    "the line {place} of hosts_access(5) has no line end, and is ignored for that: {line}",
    "end it, or remove it",
)
LOST_OPTIONS = Trap(
    "what the line {place} of hosts_access(5) sets for the command is left out: {line}",
    "set it by UMask=, Nice=, Environment= or KeepAlive=",
)
OF_PATH = refusal(
    "the rules about addresses are about clients of a path, which have none", "remove the rules"
)
GROUPS = Trap(
    "the command had the further groups that the user is in: those of today are listed",
    "change SupplementaryGroups= when they change",
    key="SupplementaryGroups",
)
GROUPS_LEFT_OUT = Trap(
    "the further groups {names} of the user are left out: no command has them here",
    "find out whether the command needs them",
    key="SupplementaryGroups",
)
NO_GROUPS = Trap(
    "the command had the further groups that its user is in, and the user is not known here",
    "write what it needs in SupplementaryGroups=",
    key="User",
)
NOWHERE = refusal("nothing is left of where it listens", "correct the source")
SAME_PLACE = refusal(
    "the service of {other} listens at {place}, too",
    "decide which of the two is to have it, and remove one",
)
MERGED = note("it runs the same as the service of {other}, and has one file with that")
BROKEN_FILE = refusal("a service file cannot have all of it: {why}", "write it by hand")
SAME_NAME = note(
    "{name} is the name of another service already, so this one is called {made}",
    "rename the file if another name is better",
)
ANEW = note("it is for all services, and this one begins anew, to be as it was in the source")
COMMON = (
    ROOT,
    ROOT_GROUP,
    OF_POSTFIX,
    NO_ACCOUNT_NAME,
    NOT_TEXT,
    BAD_VALUE,
    SEARCHED,
    NO_PORT,
    NAME_OF_HOST,
    NO_HOST,
    RESOLVED,
    UNREADABLE_RULES,
    UNSAID_RULE,
    UNENDED_RULE,
    CLOSED_RULE,
    LOST_OPTIONS,
    OF_PATH,
    GROUPS,
    GROUPS_LEFT_OUT,
    NO_GROUPS,
    NOWHERE,
    SAME_PLACE,
    MERGED,
    BROKEN_FILE,
    SAME_NAME,
    ANEW,
)
# What is different for every command, whatever it comes from.
EVERYWHERE = (
    note("set-user-ID programs and file capabilities are without effect", "NoNewPrivileges=no"),
    note("what a command leaves behind when it ends is killed"),
    note("the environment has the variables of spawn.conf(5), ENVIRONMENT OF THE COMMAND"),
    note("each connection leaves a record in the journal", "Log="),
)

OPEN_FILES = note(
    "the soft limit of open files is that of systemd, 1024, and not raised to the hard one",
    "LimitNOFILE=",
)


class Job:
    """One service on its way from a source to a draft. gates: who may connect, by each of these."""

    def __init__(self, draft: Draft, machine: Machine) -> None:
        self.draft = draft
        self.machine = machine
        self.gates: list[Rules] = []

    def say(self, trap: Trap, given: Given | None = None, **pieces: object) -> None:
        """Remarks that the service ran into a trap."""
        self.draft.say(trap, given, **pieces)

    def set(self, key: str, value: str, given: Given) -> bool:
        """Adds a line to [Spawn], unless no service file can have this value of the source."""
        if not speaks(value):
            self.say(NOT_TEXT, given)
            return False
        try:
            KEYS[key].parse(value)
        except ValueError as error:
            self.say(BAD_VALUE, given, key=key, why=str(error))
            return False
        self.draft.set(key, value)
        return True

    def listen(self, place: str, given: Given) -> None:
        """Adds a ListenStream=, unless it is there, or no service file can have it."""
        if not speaks(place):
            self.say(NOT_TEXT, given)
            return
        try:
            listeners.address(place)
        except ValueError as error:
            self.say(BAD_VALUE, given, key="ListenStream", why=str(error))
            return
        if place.replace("%", "%%") not in self.draft.values("ListenStream"):
            self.draft.socket("ListenStream", place)

    def addresses(self, host: str, given: Given) -> list[str]:
        """The addresses of a host that a source names as one to listen at; a remark where they
        cannot be had."""
        try:
            listeners.address(f"[{host}]:1" if ":" in host else f"{host}:1")
        except (ValueError, UnicodeError):
            pass
        else:
            return [host]
        if not self.machine.resolve:
            self.say(NAME_OF_HOST, given, name=host)
            return []
        found = self.machine.addresses(host)
        self.say(RESOLVED if found else NO_HOST, given, name=host)
        return found

    def port(self, text: str, given: Given) -> str:
        """The number of a port, which can be given by its name; "" where there is none."""
        if text.isascii() and text.isdigit():
            return text.lstrip("0") or "0"
        found = self.machine.port(text)
        if found is None:
            self.say(NO_PORT, given, name=text)
        return "" if found is None else str(found)

    def account(self, user: str, group: str, given: Given, refused: str = REFUSED) -> None:
        """Adds User=, unless no command may run as this user, or with this group, "" for the
        user's. refused: the owner of RefuseUsers=."""
        for name in filter(None, (user, group)):
            try:
                values.group(name)
            except ValueError:
                self.say(NO_ACCOUNT_NAME, given, name=name)
                return
        ids = self.machine.ids(user)
        gid = self.machine.gid(group) if group else ids[1] if ids else None
        if user == "root" or (ids is not None and ids[0] == 0):
            self.say(ROOT, given)
        elif group == "root" or gid == 0:
            self.say(ROOT_GROUP, given)
        else:
            owner = self.machine.ids(refused)
            mine = ids or (None, None)
            if user == refused or (owner is not None and owner[0] == mine[0]):
                self.say(OF_POSTFIX, given, name=user, owner=refused)
            elif owner is not None and owner[1] == gid:
                self.say(OF_POSTFIX, given, name=group or user, owner=refused)
        self.set("User", f"{user}:{group}" if group else user, given)

    def command(self, words: list[str], given: Given, name: str | None = None) -> None:
        """Adds Argv= of the words, and Argv0= for a name that is not the first of them."""
        if not all(map(speaks, [*words, name or ""])):
            self.say(NOT_TEXT, given)
            return
        if "/" not in words[0]:
            self.say(SEARCHED, given)
        if self.set("Argv", command_line(words), given) and name is not None and name != words[0]:
            self.set("Argv0", quoted(name), given)

    def further_groups(self, user: str, given: Given, *, own: bool = False) -> None:
        """Adds the groups that the user is in, as initgroups(3) gave them to the command. own:
        with the user's primary group, which another one has replaced."""
        if self.machine.ids(user) is None:
            self.say(NO_GROUPS, given)
            return
        groups = self.machine.further_groups(user)
        if own:
            groups = sorted({*groups, self.machine.primary_group(user)})
        owner = self.machine.ids(REFUSED)
        closed = {0, owner[1]} if owner else {0}
        left_out = [name for name in groups if self.machine.gid(name) in closed]
        kept = [name for name in groups if name not in left_out]
        if kept and self.set("SupplementaryGroups", " ".join(map(quoted, kept)), given):
            self.say(GROUPS, given)
        if left_out:
            self.say(GROUPS_LEFT_OUT, given, names=" ".join(left_out))

    def wrapped(self, daemon: str, given: Given) -> None:
        """Has the clients only that hosts.allow and hosts.deny let in for this daemon."""
        try:
            texts = self.machine.libwrap()
        except Unreadable as error:
            self.say(UNREADABLE_RULES, given, why=str(error))
            return
        resolve = self.machine.addresses if self.machine.resolve else _nobody
        found = wrappers.verdict(texts, daemon, resolve)
        for trap, lines in (
            (UNSAID_RULE, found.unsaid),
            (UNENDED_RULE, found.unended),
            (CLOSED_RULE, found.closed),
            (LOST_OPTIONS, found.lost),
        ):
            for place, line in lines:
                self.say(trap, given, place=str(place), line=line)
        if found.rules.rules:
            self.gates.append(found.rules)

    def close(self, given: Given) -> None:
        """Adds AllowFrom= and DenyFrom= by what the gates come to."""
        allow, deny = lists(self.gates)
        if (allow or deny) and any(each[0] == "/" for each in self.draft.values("ListenStream")):
            self.say(OF_PATH, given)
        for key, networks in (("AllowFrom", allow), ("DenyFrom", deny)):
            if networks:
                self.set(key, " ".join(networks), given)


def _nobody(_name: str) -> list[str]:
    return []
