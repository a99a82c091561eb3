"""The tunnels' states and policies, copied from the active node's kernel to the standby's.

docs/session-takeover.md is the page about it.
"""
