"""inetd(8), as Debian and the BSDs have it."""
