{%- set gateway = salt['gateway.settings']() %}
# The two nodes as one: chapter 4.6 of the paper. What is reloaded when, and what waits for a person, is in
# docs/heartbeat.md; who decides which node is active, in docs/takeover.md.
include:
  - .install
  {%- if gateway.heartbeat.agent %}
  - .agent
  {%- endif %}
  - .resource
  - .configuration
  - .service

# What it manages is written down, for the drift beacon.
heartbeat-recorded:
  drift.recorded:
    - name: heartbeat
