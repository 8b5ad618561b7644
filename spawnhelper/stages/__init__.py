"""The stages of a connection, in the order of serve.py."""
