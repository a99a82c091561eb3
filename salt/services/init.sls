{%- set gateway = salt['gateway.settings']() %}

# A service that is not installed counts as off.
{%- for service in gateway.services.off %}

{{ service }}-off:
  service.dead:
    - name: {{ service }}
    - enable: False
{%- endfor %}

# Record what this formula manages, for the drift beacon.
services-recorded:
  drift.recorded:
    - name: services
