{%- set gateway = salt['gateway.settings']() %}
# The role agent (docs/takeover.md), which heartbeat starts. A change of its files moves no role: see heartbeat_current.
heartbeat_agent:
  file.recurse:
    - name: /usr/local/lib/gateway/agent
    - source: salt://heartbeat/agent
    - file_mode: '0644'
    - dir_mode: '0755'
    - clean: True
    # Python's cache, on the master and the node; and the program `run`, which has its own mode (below).
    - exclude_pat: E@__pycache__|^run$
    - require:
      - pkg: heartbeat_packages
      - heartbeat: heartbeat_way

/usr/local/lib/gateway/agent/run:
  file.managed:
    - source: salt://heartbeat/agent/run
    - mode: '0755'
    - require:
      - file: heartbeat_agent

/etc/ha.d/agent.json:
  file.managed:
    - contents: {{ salt['heartbeat.agent_json'](gateway, salt['ipsec.tunnels'](gateway) if gateway.features.openswan else [])
        | json }}
    - mode: '0644'
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/local/lib/gateway/agent/run check
    - require:
      - file: /usr/local/lib/gateway/agent/run

# Cleans up when heartbeat has ended, whatever became of the agent.
/usr/local/sbin/heartbeat-ended:
  file.managed:
    - source: salt://heartbeat/files/heartbeat-ended
    - mode: '0755'
