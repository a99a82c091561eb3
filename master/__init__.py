"""What is the master's and both engines use: one reader of the bus, one check of answers, one way of asking nodes.

``bus`` reads, ``keys`` holds the secret, ``answers`` verifies what a node answers, ``feed`` puts events into order and
asks for missing ones, ``asking`` asks and waits, ``links`` reaches Salt. How an event is verified: alerts/authentic.py.
"""
