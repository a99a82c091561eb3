{%- set gateway = salt['gateway.settings']() %}
# A node must not become active before all its formulas are applied.
include:
  - .resource
{%- for formula in ('kernel', 'bonding', 'firewall', 'openswan') if gateway.features[formula] %}
  - {{ formula }}
{%- endfor %}

# Before heartbeat, so that the first agent that it starts is ready (docs/takeover.md, "A node that returns").
heartbeat_compared:
  drift.compared:
    - name: node
    - require:
      - module: heartbeat_unit
      - file: heartbeat_unit
      {%- if gateway.heartbeat.agent %}
      - file: /usr/local/sbin/heartbeat-ended
      {%- endif %}
      - file: /etc/ha.d/gateway.conf
      - heartbeat: /etc/ha.d/haresources
      - heartbeat: /etc/ha.d/authkeys
      {%- for formula in ('kernel', 'bonding', 'firewall', 'openswan') if gateway.features[formula] %}
      - sls: {{ formula }}
      {%- endfor %}

# No state here restarts heartbeat: that would move the addresses.
heartbeat_service:
  service.running:
    - name: heartbeat
    - enable: True
    - require:
      - drift: heartbeat_compared

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
