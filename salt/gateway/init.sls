# A whole gateway. A site with a mistake changes nothing: all mistakes are named, no formula is rendered.
{%- set mistakes = salt['gateway.mistakes']() %}
{%- if mistakes %}
site-has-mistakes:
  test.fail_without_changes:
    - comment: {{ mistakes | join('\n') | tojson }}
{%- else %}
include:
  - gateway.packages
{%- for feature, wanted in salt['gateway.settings']().features.items() if wanted %}
  - {{ feature }}
{%- endfor %}
{%- endif %}
