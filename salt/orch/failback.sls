{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
{%- from 'orch/steps.jinja' import applied, called with context %}
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
{{ called('preferred_healthy', pair.preferred, 'heartbeat.healthy', ['standby']) }}
{{ called('handed_over', pair.active, 'heartbeat.standby', after='preferred_healthy') }}
{{ called('taken_over', pair.preferred, 'heartbeat.wait_for_role', ['active'], after='handed_over') }}
{{ called('served', pair.preferred, 'heartbeat.daemon_ready', ['active'], after='taken_over') }}
{%- endif %}
{%- endfor %}
