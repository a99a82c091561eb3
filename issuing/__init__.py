"""
The certificate authority; ``_runners/authority.py`` is the door.

``issue``, ``revocation`` and ``overview`` keep the order of what is done. ``certificate`` makes certificates and lists,
``journal`` knows what was issued, ``bundle`` makes what a person gets, ``pillar`` writes what the nodes get, ``vault``
keeps the authority's key, ``files`` reads and writes. Only ``policy`` knows what the master's configuration may say.
"""
