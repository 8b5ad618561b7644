"""The ends of a command that are good ones, besides exit status 0: SuccessExitStatus= to the wait
statuses of wait(2). One with a core dump is none of them, as in systemd.service(5)."""

from __future__ import annotations

from spawnhelper.conf.values import words
from spawnhelper.outcome import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

# systemd.exec(5), "Process Exit Codes", without EXIT_ and EX_; each row counts up from its number.
ROWS = {
    0: "SUCCESS FAILURE",
    2: "INVALIDARGUMENT NOTIMPLEMENTED NOPERMISSION NOTINSTALLED NOTCONFIGURED NOTRUNNING",
    64: "USAGE DATAERR NOINPUT NOUSER NOHOST UNAVAILABLE SOFTWARE OSERR OSFILE CANTCREAT IOERR "
    "TEMPFAIL PROTOCOL NOPERM CONFIG",
    200: "CHDIR NICE FDS EXEC MEMORY LIMITS OOM_ADJUST SIGNAL_MASK STDIN STDOUT CHROOT IOPRIO "
    "TIMERSLACK SECUREBITS SETSCHEDULER CPUAFFINITY GROUP USER CAPABILITIES CGROUP SETSID CONFIRM "
    "STDERR",
    224: "PAM NETWORK NAMESPACE NO_NEW_PRIVILEGES SECCOMP SELINUX_CONTEXT PERSONALITY APPARMOR "
    "ADDRESS_FAMILIES RUNTIME_DIRECTORY",
    235: "CHOWN SMACK_PROCESS_LABEL KEYRING STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY "
    "CONFIGURATION_DIRECTORY NUMA_POLICY CREDENTIALS BPF",
    255: "EXCEPTION",
}
STATUSES = {str(number): number for number in range(256)} | {
    name: number for first, row in ROWS.items() for number, name in enumerate(row.split(), first)
}
# signal(7), without SIG.
SIGNALS: dict[str, int] = {
    name.removeprefix("SIG"): getattr(signal, name)
    for name in dir(signal)
    if name.startswith("SIG") and name[3] != "_"
}
for distance in range(signal.SIGRTMAX - signal.SIGRTMIN + 1):
    SIGNALS[f"RTMIN+{distance}"] = signal.SIGRTMIN + distance
    SIGNALS[f"RTMAX-{distance}"] = signal.SIGRTMAX - distance


def good_ends(text: str) -> list[int]:
    """Exit statuses and signals, separated by white space, as wait statuses."""
    found = []
    for word in words(text):
        name = word.removeprefix("SIG")
        if word in STATUSES:
            found.append(STATUSES[word] << 8)
        elif name in SIGNALS:
            found.append(SIGNALS[name])
        else:
            raise ValueError(
                f"has '{shown(word)}'; write statuses from 0 to 255, names of systemd.exec(5) "
                "as in TEMPFAIL, and signals as in SIGTERM"
            )
    return found
