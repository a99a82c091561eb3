"""
The certificate authority's parts; ``_runners/authority.py`` is the door, and keeps the order of what is done.

``certificate`` makes certificates and lists, ``journal`` knows what was issued, ``bundle`` makes what a person gets,
``pillar`` writes what the nodes get, ``files`` reads and writes. Nothing here knows Salt's configuration.
"""
