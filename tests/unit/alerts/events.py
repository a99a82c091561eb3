"""Events for the tests."""
from __future__ import annotations

from alerts import authentic

SECRET = bytes(range(32))
T = 1_714_557_600.0  # 2024-05-01T10:00:00Z


def made(n: int = 1, minion: str = "gw1.winterthur", condition: str = "slave_down", subject: str = "bond0/eth1",
         severity: str = "warning", recovered: bool = False, once: bool = False, journal: str = "00112233aabbccdd",
         beacon: str = "bonding", **more: object) -> authentic.Event:
    """A verified event."""
    node, _, site = minion.partition(".")
    return authentic.Event(journal, n, minion, site, node, "active", beacon, condition, subject, severity,
                           more.pop("was", "up"), more.pop("now", "down"), "2024-05-01T10:00:00.000Z",
                           more.pop("at", "2024-05-01T10:00:00.100Z"), recovered, once, more.pop("cause", ""), {})


def wire(event: authentic.Event, secret: bytes = SECRET) -> dict:
    """An event as it goes over the bus, signed."""
    fields = event._asdict()
    fields["is"] = fields.pop("now")
    return authentic.sign({"version": 1, **fields}, authentic.key_of(secret, event.id))
