"""spawn(8) of Postfix."""
