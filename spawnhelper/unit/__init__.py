"""What systemd runs besides."""
