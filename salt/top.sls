# A minion that has a site in its pillar is a gateway; pillar/top.sls decides that by the minion's id.
base:
  'I@gateway:site:*':
    - match: compound
    - gateway
