"""The parsers of all commands."""
