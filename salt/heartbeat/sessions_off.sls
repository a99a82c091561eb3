# This site does not copy its tunnels (any more). On the active node those that were adopted carry on until they end.
heartbeat_sessions_off:
  service.dead:
    - name: gateway-sessions
    - enable: False

heartbeat_sessions_files_off:
  file.absent:
    - names:
      - /etc/ha.d/sessions.json
      - /etc/systemd/system/gateway-sessions.service
      - /usr/local/lib/gateway/sessions
    - require:
      - service: heartbeat_sessions_off
