{%- set pair = salt['saltutil.runner']('gateway.pair', kwarg={'site': pillar.get('site', '')}) %}
# What pillar and tree say, onto both nodes of a site where they are: the standby first, and the active one in its place
# only when the standby is healthy. No role moves; what needs that waits, with a warning, for `orch.update`.
# The engine gateway_resync runs this by itself (docs/resync.md). With `same_tree` the minions do not look for new modules
# before: some forty questions to the file server, each. (salt.state can not hand a minion a setting for one run.)
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

# With the role that it had: a standby that took over meanwhile is the active node, and the other one is to be looked at.
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
