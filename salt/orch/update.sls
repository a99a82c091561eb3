{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
{%- from 'orch/steps.jinja' import applied, called with context %}
# Applies pillar and tree to both nodes of a site, one after the other: the standby first, the other one only when the first
# is healthy and has become active. Stops at the first failure. With test=True the nodes only report what would change.
#   salt-run state.orch orch.update pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}
{{ applied('standby_applied', pair.standby) }}
{{ called('standby_healthy', pair.standby, 'heartbeat.healthy', ['standby'], after='standby_applied') }}
{{ called('handed_over', pair.active, 'heartbeat.standby', after='standby_healthy') }}
{{ called('taken_over', pair.standby, 'heartbeat.healthy', ['active'], after='handed_over') }}
{{ applied('former_active_applied', pair.active, after='taken_over') }}
{{ called('former_active_healthy', pair.active, 'heartbeat.healthy', ['standby'], after='former_active_applied') }}
{%- endfor %}
