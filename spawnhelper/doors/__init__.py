"""How a connection comes, and where its record goes."""
