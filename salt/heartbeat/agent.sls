{%- set gateway = salt['gateway.settings']() %}
# The role agent (docs/takeover.md), which heartbeat starts. A change here moves nothing: see heartbeat_current.
heartbeat_agent:
  file.recurse:
    - name: /usr/local/lib/gateway/agent
    - source: salt://heartbeat/agent
    - file_mode: keep
    - dir_mode: '0755'
    - clean: True
    # Python's own, on either side.
    - exclude_pat: E@__pycache__
    - require:
      - pkg: heartbeat_packages
      - heartbeat: heartbeat_way

/etc/ha.d/agent.json:
  file.managed:
    - contents: {{ salt['heartbeat.agent_json'](gateway, salt['ipsec.tunnels'](gateway) if gateway.features.openswan else [])
        | json }}
    - mode: '0644'
    - check_cmd: /usr/local/lib/gateway/agent/run check
    - require:
      - file: heartbeat_agent

# What heartbeat leaves behind when it ends, whatever became of the agent.
/usr/local/sbin/heartbeat-ended:
  file.managed:
    - source: salt://heartbeat/files/heartbeat-ended
    - mode: '0755'
