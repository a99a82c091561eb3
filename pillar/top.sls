#!jinja|yaml
{#-
  Who gets what. The minion's id alone decides: the master has authenticated it, whereas a minion says of itself in its
  grains what it likes. NODE.SITE gets SITE's pillar if SITE has a node of that name. Anyone else gets nothing: an
  accepted key of laptop.SITE opens nothing. One file is read, however many sites there are.
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
    # what salt-run authority and salt-run lists wrote; see docs/certificates.md
    - secrets.issued.{{ id[1] }}
    - secrets.crls.{{ id[1] }}
    - ignore_missing: True      # so that gateway.mistakes can name the secrets that are missing
{%- else %}
base: {}
{%- endif %}
