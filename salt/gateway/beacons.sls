# The last of a run: by now the minion has the beacons' modules.
beacons_watch:
  gateway_events.watched:
    - order: last
