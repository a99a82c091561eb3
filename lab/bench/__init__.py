"""Measures takeovers: faults x configurations x clients, compared with what a user would choose today."""
