{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
{%- from 'orch/steps.jinja' import applied, called with context %}
# Moves the active role to the other node. That node must be ready, its IPsec daemon with all connections too. The last step
# checks that the daemon serves them.
#   salt-run state.orch orch.switch_over pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}
{{ called('daemon_ready', pair.standby, 'heartbeat.daemon_ready') }}
{{ called('handed_over', pair.active, 'heartbeat.standby', after='daemon_ready') }}
{{ called('taken_over', pair.standby, 'heartbeat.wait_for_role', ['active'], after='handed_over') }}
{{ called('served', pair.standby, 'heartbeat.daemon_ready', ['active'], after='taken_over') }}
{%- endfor %}
