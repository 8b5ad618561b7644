"""xinetd(8)."""
