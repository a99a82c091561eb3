{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
{%- from 'orch/steps.jinja' import applied, called with context %}
# Applies pillar and tree to both nodes of a site without moving a role: the standby first, the active node only when the
# standby is healthy. A change that needs a role to move waits there, with a warning, for `orch.update`.
# The engine gateway_resync runs this automatically (docs/resync.md). With `same_tree` the minions do not look for new modules
# first, which saves some forty questions to the file server on each. A node that is silent is no success.
#   salt-run state.orch orch.resync pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}
{%- set named = {'localconfig': '/etc/salt/gateway/same-tree.conf'} if pillar.get('same_tree') else {} %}

{{ applied('standby_applied', pair.standby, named) }}
# The node must still have its role. A standby that took over meanwhile is the active node now: this step fails, and somebody
# must look at the other node.
{{ called('standby_healthy', pair.standby, 'heartbeat.healthy', ['standby'], after='standby_applied') }}
{{ applied('active_applied', pair.active, named, after='standby_healthy') }}
{{ called('active_healthy', pair.active, 'heartbeat.healthy', ['active'], after='active_applied') }}
{%- endfor %}
