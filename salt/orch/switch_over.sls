{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
# Moves the active role to the other node. That node must be ready, its IPsec daemon with all connections too. The last step
# checks that the daemon serves them.
#   salt-run state.orch orch.switch_over pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}

daemon_ready:
  salt.function:
    - name: heartbeat.daemon_ready
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True

handed_over:
  salt.function:
    - name: heartbeat.standby
    - tgt: [{{ pair.active }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: daemon_ready

taken_over:
  salt.function:
    - name: heartbeat.wait_for_role
    - arg: [active]
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: handed_over

served:
  salt.function:
    - name: heartbeat.daemon_ready
    - arg: [active]
    - tgt: [{{ pair.standby }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: taken_over
{%- endfor %}
