{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
# Moves the active role back to the preferred node when that node is healthy. Does nothing when it is active already.
#   salt-run state.orch orch.failback pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}

{%- if pair.active == pair.preferred %}

back_already:
  test.succeed_without_changes:
    - comment: {{ pair.preferred }} is the preferred node and active
{%- else %}

preferred_healthy:
  salt.function:
    - name: heartbeat.healthy
    - arg: [standby]
    - tgt: [{{ pair.preferred }}]
    - tgt_type: list
    - expect_minions: True

handed_over:
  salt.function:
    - name: heartbeat.standby
    - tgt: [{{ pair.active }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: preferred_healthy

taken_over:
  salt.function:
    - name: heartbeat.wait_for_role
    - arg: [active]
    - tgt: [{{ pair.preferred }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: handed_over

served:
  salt.function:
    - name: heartbeat.daemon_ready
    - arg: [active]
    - tgt: [{{ pair.preferred }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: taken_over
{%- endif %}
{%- endfor %}
