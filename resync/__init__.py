"""Resync: whatever changes on the master or on a gateway, both nodes of each site become what the master says.

``inputs.py`` tells what there is and ``bus.py`` what happens, ``decide.py`` what is to be done about it, ``work.py``
does it through Salt, in processes of ``jobs.py``. The engine ``_engines/gateway_resync.py`` joins them, the runner
``_runners/resync.py`` is for people. See docs/resync.md.
"""
