"""Runs a command for each connection that systemd accepts. See spawnhelper(8)."""

__version__ = "0.1.0"
