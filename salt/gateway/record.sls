# The last state of a run of the whole gateway: it records the node's inputs if all states before it succeeded.
gateway-completed:
  drift.completed:
    - name: gateway
    - order: last
