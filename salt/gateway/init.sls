# A whole gateway. A site with a mistake changes nothing: all mistakes are named, no formula is rendered.
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
  - gateway.record
{%- endfor %}
