"""Resync: after any change on the master or on a gateway, both nodes of the site get the state that the master has.

``inputs.py`` reads what the master has, ``bus.py`` reads the event bus, ``decide.py`` decides what to do, ``work.py``
does it through Salt, in processes of ``jobs.py``. The engine ``_engines/gateway_resync.py`` joins them. The runner
``_runners/resync.py`` is for people. See docs/resync.md.

The decisions, without input or output: ``events.py`` come in, ``actions.py`` come out, ``waits.py`` have clocks.
``fleet.py`` is what is known of all sites, ``queue.py`` the sites that are behind. On them ``rollouts.py``,
``repairs.py`` and ``orders.py`` decide, and ``decide.py`` is the whole.
"""
