# The last state of a run of the whole gateway: it notes what the node was made of, if all before went well.
gateway-completed:
  drift.completed:
    - name: gateway
    - order: last
