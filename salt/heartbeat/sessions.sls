{%- set gateway = salt['gateway.settings']() %}
# The standby's copies of all tunnels (docs/session-takeover.md). A restart of this process ends no tunnel.
heartbeat_sessions:
  file.recurse:
    - name: /usr/local/lib/gateway/sessions
    - source: salt://heartbeat/sessions
    - file_mode: '0644'
    - dir_mode: '0755'
    - clean: True
    - exclude_pat: E@__pycache__|^run$
    - require:
      - file: heartbeat_agent

/usr/local/lib/gateway/sessions/run:
  file.managed:
    - source: salt://heartbeat/sessions/run
    - mode: '0755'
    - require:
      - file: heartbeat_sessions

/etc/ha.d/sessions.json:
  file.managed:
    - contents: {{ salt['heartbeat.sessions_json'](gateway) | json }}
    - mode: '0644'
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/local/lib/gateway/sessions/run check
    - require:
      - pkg: heartbeat_packages
      - file: /usr/local/lib/gateway/sessions/run

/etc/systemd/system/gateway-sessions.service:
  file.managed:
    - source: salt://heartbeat/files/gateway-sessions.service
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/gateway-sessions.service

# A kernel that can not do it leaves the service out: it would end and start for ever. The alert sessions_lost says so.
heartbeat_sessions_service:
  service.running:
    - name: gateway-sessions
    - enable: True
    - onlyif:
      - fun: sessions.possible
    - watch:
      - heartbeat: /etc/ha.d/authkeys
      - file: heartbeat_sessions
      - file: /usr/local/lib/gateway/sessions/run
      - file: /etc/ha.d/sessions.json
      - file: /etc/systemd/system/gateway-sessions.service
