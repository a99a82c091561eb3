{%- set gateway = salt['gateway.settings']() %}

# A service that is not installed is as good as one that is off.
{%- for service in gateway.services.off %}

{{ service }}-off:
  service.dead:
    - name: {{ service }}
    - enable: False
{%- endfor %}

# What it manages is written down, for the drift beacon.
services-recorded:
  drift.recorded:
    - name: services
