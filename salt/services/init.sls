{%- set gateway = salt['gateway.settings']() %}

{%- set installed = salt['service.get_all']() %}
# A service that is not installed is as good as one that is off, and asking for each takes its time.
{%- for service in gateway.services.off if service in installed %}

{{ service }}-off:
  service.dead:
    - name: {{ service }}
    - enable: False
{%- endfor %}
