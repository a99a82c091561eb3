# What every gateway's minion watches, once a second, drift every second one; what each tells is in docs/monitoring.md.
# There is nothing to set: a beacon reads from the site what there has to be, and is still where
# `features: {monitoring: false}` stands.
beacons:
  bonding: []
  heartbeat: []
  ipsec: []
  drift: [{interval: 2}]
