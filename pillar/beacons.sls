# The beacons of every gateway's minion. They look once a second, drift every two seconds; docs/monitoring.md says what
# each reports. There is nothing to set: a beacon reads from the site what has to be there, and reports nothing where
# the site says `features: {monitoring: false}`.
beacons:
  bonding: []
  heartbeat: []
  ipsec: []
  drift: [{interval: 2}]
