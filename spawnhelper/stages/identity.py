"""Who the command runs as: names to numbers, what must not run, and the drop of all the rest."""

from __future__ import annotations

from spawnhelper import manager
from spawnhelper.conf.values import account_of, group_of
from spawnhelper.outcome import Problem, misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import pwd

    from spawnhelper.conf.service import Service
else:
    import posix as os

# (uid_t) -1, which system calls take for "leave as it is", in 32 bits and in 16.
INVALID = (0xFFFFFFFF, 0xFFFF)
NEED_ROOT = ", or see SERVICES THAT NEED ROOT in spawnhelper(8)"


class Identity:
    """Numbers that the command runs with. groups: all supplementary groups, sorted, the primary
    one among them. user, home: as the account database has them."""

    __slots__ = ("gid", "groups", "home", "uid", "user")

    def __init__(self, user: str, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.user = user
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve(service: Service) -> Identity:
    """The identity of the service's command, or a Refusal with every problem it has."""
    name, named_group = service.user or (str(manager.now.uid), None)
    if name.isdigit() and int(name) in INVALID:
        sentence = f"User= is uid {name}, which means -1; name another account"
        raise misconfigured(service.problem("User", sentence))
    account = account_of(name)
    if account is None:
        sentence = f"User={name} is no account of this machine; create it, or name another"
        raise misconfigured(service.problem("User", sentence), status=os.EX_NOUSER)
    problems: list[Problem] = []
    refused = [entry for entry in map(account_of, service.refuse_users) if entry is not None]
    if account.pw_uid == 0:
        sentence = f"User= is uid 0; no command runs as root, name another account{NEED_ROOT}"
        problems.append(service.problem("User", sentence))
    elif account.pw_uid in INVALID:
        sentence = f"User= is uid {account.pw_uid}, which means -1; name another account"
        problems.append(service.problem("User", sentence))
    for entry in refused:
        if account.pw_uid == entry.pw_uid:
            sentence = f"User= is uid {entry.pw_uid}, and RefuseUsers= refuses {entry.pw_name}"
            problems.append(service.problem("User", f"{sentence}; name another account"))

    if manager.now.own and account.pw_uid != manager.now.uid and not problems:
        sentence = "User= is not you, and a service of one's own runs as oneself; remove the line"
        problems.append(service.problem("User", sentence))

    wanted: list[tuple[str, int | str]] = []
    if service.group is not None:
        wanted = [("Group", service.group)]
    elif not problems:  # or the line has been named already
        usual = os.getegid() if manager.now.own else account.pw_gid
        wanted = [("User", usual if named_group is None else named_group)]
    wanted += [("SupplementaryGroups", group) for group in service.supplementary_groups]
    groups: list[int] = []  # the primary one first
    for key, group in wanted:
        gid = group if isinstance(group, int) else group_of(group)
        sentence = _refused_group(group, gid, refused)
        if sentence:
            problems.append(service.problem(key, f"{key}= {sentence}"))
        elif gid is not None:
            groups.append(gid)
    if manager.now.own and groups[:1] not in ([], [os.getegid()]):
        sentence = f"User= gives gid {groups[0]}, and yours is {os.getegid()}; leave out the group"
        problems.append(service.problem("User", sentence))
    if problems:
        raise misconfigured(*problems)
    return Identity(account.pw_name, account.pw_uid, groups[0], sorted(set(groups)), account.pw_dir)


def _refused_group(group: int | str, gid: int | None, refused: list[pwd.struct_passwd]) -> str:
    """Why no command has this group, as the end of a sentence; "" where it may."""
    if gid is None:
        return f"names {group}, which is no group of this machine; create it, or name another"
    if gid == 0:
        return f"gives gid 0; no command runs as root's group, name another{NEED_ROOT}"
    if gid in INVALID:
        return f"gives gid {gid}, which means -1; name another group"
    for entry in refused:
        if gid == entry.pw_gid:
            whose = f"and RefuseUsers= refuses {entry.pw_name}, whose group it is"
            return f"gives gid {gid}, {whose}; name another group"
    return ""


def check_reach(service: Service, identity: Identity) -> None:
    """Refuses what this process cannot take on: without root, any identity but its own, and for a
    service of one's own what is beyond its limits."""
    mine = (os.geteuid(), os.getegid())
    if manager.now.own:
        from spawnhelper.conf import own

        own.check_reach(service, own.reach())
    if mine[0] == 0 or mine == (identity.uid, identity.gid):
        return
    sentence = (
        f"User= is uid {identity.uid} and gid {identity.gid}, and this runs as uid {mine[0]} and "
        f"gid {mine[1]}; without root commands run as yourself alone: add --as-me, or use sudo"
    )
    raise misconfigured(service.problem("User", sentence), status=os.EX_NOPERM)


class Acting:
    """For a while acts as the identity, where this is root, for the kernel and for others that ask
    it who this is."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.root = os.geteuid() == 0

    def __enter__(self) -> None:
        if self.root:
            os.setegid(self.identity.gid)
            try:
                os.seteuid(self.identity.uid)
            except OSError:
                os.setegid(0)  # nobody else will: what was not entered is not left
                raise

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)
            os.setegid(0)


def drop(identity: Identity) -> None:
    """Becomes the identity for good, and reads back that nothing of the old one is left.

    Raises OSError where the kernel refuses, RuntimeError where it claims success without it.
    Groups can be set by root alone; who runs this without keeps their own.
    """
    import _prctl

    if os.geteuid() == 0:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        _expect("supplementary groups", sorted(os.getgroups()), identity.groups)
    _expect("user ids", os.getresuid(), (identity.uid,) * 3)
    _expect("group ids", os.getresgid(), (identity.gid,) * 3)
    # setresuid(2) leaves the inheritable set alone, and systemd 257 hands one over; an ambient
    # capability cannot outlive it (capabilities(7)).
    sets = ("CAP_EFFECTIVE", "CAP_PERMITTED", "CAP_INHERITABLE")
    every = [
        getattr(_prctl, name)
        for name in dir(_prctl)
        if name.startswith("CAP_") and name not in sets
    ]
    _prctl.set_caps([], [], [], every, every, every)
    left = _prctl.get_caps(every, every, every)
    _expect("capabilities", any(held for caps in left.values() for held in caps.values()), False)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError(f"the {what} are {found} after the drop and should be {wanted}")
