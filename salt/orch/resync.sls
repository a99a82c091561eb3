{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
# Applies pillar and tree to both nodes of a site without moving a role: the standby first, the active node only when the
# standby is healthy. A change that needs a role to move waits there, with a warning, for `orch.update`.
# The engine gateway_resync runs this automatically (docs/resync.md). With `same_tree` the minions do not look for new modules
# first, which saves some forty questions to the file server on each. (salt.state can not give a minion a setting for one run.)
# Trap: not with `queue: True`. A minion that runs states puts the job aside and says nothing (Salt 3008.3), and then nobody
# knows what becomes of it; without, it says what it runs. `expect_minions`: a node that is silent is no success.
#   salt-run state.orch orch.resync pillar='{"site": "winterthur"}'
{%- for mistake in pair.mistakes %}

mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}
{%- for role in ('standby', 'active') %}

{{ role }}_applied:
  {%- if pillar.get('same_tree') %}
  salt.function:
    - name: state.highstate
    - kwarg: {localconfig: /etc/salt/gateway/same-tree.conf}
  {%- else %}
  salt.state:
    - highstate: True
  {%- endif %}
    - tgt: [{{ pair[role] }}]
    - tgt_type: list
    - expect_minions: True
    {%- if role == 'active' %}
    - require:
      - salt: standby_healthy
    {%- endif %}

# The node must still have its role. A standby that took over meanwhile is the active node now: this step fails, and somebody
# must look at the other node.
{{ role }}_healthy:
  salt.function:
    - name: heartbeat.healthy
    - arg: [{{ role }}]
    - tgt: [{{ pair[role] }}]
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: {{ role }}_applied
{%- endfor %}
{%- endfor %}
