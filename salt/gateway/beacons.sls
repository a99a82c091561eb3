# The last state of a run: by now the minion has the modules of the beacons.
beacons_watch:
  gateway_events.watched:
    - order: last
