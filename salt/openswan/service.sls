{%- set gateway = salt['gateway.settings']() %}
{%- if gateway.features.kernel %}
include:
  - kernel

{%- endif %}
# It runs on both nodes and serves whichever holds the virtual address (docs/openswan.md).
openswan_service:
  service.running:
    - name: ipsec
    - enable: True
    - require:
      - ipsec: /etc/ipsec.conf
      - file: /etc/ipsec.secrets
      - file: /etc/systemd/system/ipsec.service.d/gateway.conf
      {%- if gateway.features.kernel %}
      - sls: kernel
      {%- endif %}

openswan_reread:
  module.run:
    - name: ipsec.reread
    - require:
      - service: openswan_service

openswan_current:
  ipsec.current:
    - name: ipsec
    - addresses: {{ gateway.virtual | map(attribute='address') | list | json }}
    - require:
      - module: openswan_reread
