"""The master's line to the nodes, for both engines: one reader of the bus, one check of answers, one way of asking.

``bus`` reads, ``keys`` holds the secret, ``answers`` verifies what a node answers, ``feed`` puts events into order and
asks for missing ones, ``asking`` asks and waits, ``links`` reaches Salt. How an event is verified: alerts/authentic.py.

Not called `master`: Salt puts its own folders into Python's path while it loads, and salt/utils/master.py came first
(tests/test_style.py).
"""
