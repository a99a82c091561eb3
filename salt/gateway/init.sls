# A whole gateway. If the site has a mistake, nothing changes: the run names all mistakes and renders no formula.
{%- set mistakes = salt['gateway.mistakes']() %}
{%- for mistake in mistakes %}

site-mistake-{{ loop.index }}:
  test.fail_without_changes:
    - name: {{ mistake | tojson }}
    - comment: {{ mistake | tojson }}
{%- else %}

include:
  - gateway.packages
  - gateway.minion
{%- for feature, wanted in salt['gateway.settings']().features.items() if wanted %}
  - {{ feature if feature != 'monitoring' else 'gateway.beacons' }}
{%- endfor %}
{%- if not salt['gateway.settings']().features.metrics %}
  - metrics.off
{%- endif %}
  - gateway.record
{%- endfor %}
