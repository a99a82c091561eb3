{%- set gateway = salt['gateway.settings']() %}
# heartbeat on both nodes: chapter 4.6 of the paper. docs/heartbeat.md says what is reloaded when and what waits for a
# person, docs/takeover.md who decides which node is active.
include:
  - .install
  {%- if gateway.heartbeat.agent %}
  - .agent
  {%- endif %}
  {%- if gateway.sessions %}
  - .sessions
  {%- elif gateway.heartbeat.agent %}
  - .sessions_off
  {%- endif %}
  - .resource
  - .configuration
  - .service

# Records what this formula manages, for the drift beacon.
heartbeat-recorded:
  drift.recorded:
    - name: heartbeat
