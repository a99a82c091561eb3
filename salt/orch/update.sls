{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
# Applies pillar and tree to both nodes of a site, one after the other: the standby first, the other one only when the first
# is healthy and has become active. Stops at the first failure. With test=True the nodes only report what would change.
#   salt-run state.orch orch.update pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}

standby_applied:
  salt.state:
    - highstate: True
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True

standby_healthy:
  salt.function:
    - name: heartbeat.healthy
    - arg: [standby]
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: standby_applied

handed_over:
  salt.function:
    - name: heartbeat.standby
    - tgt: [{{ pair.active }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: standby_healthy

taken_over:
  salt.function:
    - name: heartbeat.healthy
    - arg: [active]
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: handed_over

former_active_applied:
  salt.state:
    - highstate: True
    - tgt: [{{ pair.active }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: taken_over

former_active_healthy:
  salt.function:
    - name: heartbeat.healthy
    - arg: [standby]
    - tgt: [{{ pair.active }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: former_active_applied
{%- endfor %}
