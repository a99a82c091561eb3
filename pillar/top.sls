#!jinja|yaml
{#-
  Who gets what, decided by the minion's id alone: the master has authenticated that, whereas grains are the minion's own
  word. NODE.SITE gets SITE's pillar if SITE has a node of that name, anyone else gets nothing: a key accepted for
  laptop.SITE opens nothing. One file is read, however many sites there are.
  The pattern keeps the id's second part from being a path.
#}
{%- set id = opts.id | regex_match('([a-z][a-z0-9-]*)[.]([A-Za-z][A-Za-z0-9_-]*)([.].*)?$') %}
{%- set text %}{% if id %}{% include 'sites/' ~ id[1] ~ '.sls' ignore missing %}{% endif %}{% endset %}
{%- if id and id[0] in ((text | load_yaml) or {}).get('gateway', {}).get('nodes', {}) %}
base:
  '{{ opts.id }}':
    - schema
    - beacons
    - sites.{{ id[1] }}
    - secrets.{{ id[1] }}
    # what salt-run authority wrote; see docs/certificates.md
    - secrets.issued.{{ id[1] }}
    - secrets.crls.{{ id[1] }}
    - ignore_missing: True      # without its secrets a site is still explained: see gateway.mistakes
{%- else %}
base: {}
{%- endif %}
