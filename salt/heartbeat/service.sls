# Nothing here restarts heartbeat: that would move the addresses.
heartbeat_service:
  service.running:
    - name: heartbeat
    - enable: True
    - require:
      - module: heartbeat_unit
      - file: /etc/ha.d/gateway.conf
      - heartbeat: /etc/ha.d/haresources
      - heartbeat: /etc/ha.d/authkeys

heartbeat_current:
  heartbeat.current:
    - name: heartbeat
    - require:
      - service: heartbeat_service

heartbeat_role:
  heartbeat.settled:
    - name: role
    - require:
      - heartbeat: heartbeat_current
