"""Takeover, measured: faults x configurations x clients, with what a user would pick today beside it."""
