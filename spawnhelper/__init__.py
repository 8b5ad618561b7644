"""Runs a command for each connection that systemd accepts. See spawnhelper(8)."""

__version__ = "0.2.0"
# The folders of prctl and systemd-python, for what starts without site. packaging/install fills
# them in.
LIBRARIES = ()
