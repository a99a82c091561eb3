"""Real-kernel Debian hosts on one machine, for trying and testing the tree as it is."""
