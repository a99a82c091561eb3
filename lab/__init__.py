"""Real-kernel Debian hosts on one machine, to try and test this tree unchanged."""
