"""The sites in the master's pillar, as the master's runners need them. Every function takes the master's configuration.

``tree`` finds what the tree has on this master, ``files`` reads a site, ``checks`` looks for its mistakes, ``document``
writes the reference, ``client`` a client's file. ``minions`` asks a site's nodes, ``pairs`` says who is active,
``versions`` what is installed. What a site may say is in ``_modules/gateway.py``, which the nodes have, too.
"""
