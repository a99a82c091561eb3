{%- set gateway = salt['gateway.settings']() %}
{%- if gateway.features.kernel %}
include:
  - kernel

{%- endif %}
# It runs on both nodes and serves on the one that holds the virtual IP (docs/openswan.md).
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

# The drop-in has the same limit, for the next start. The running daemon is not restarted for that.
openswan_leaves_no_core:
  cores.none:
    - services: [ipsec]
    - require:
      - service: openswan_service

openswan_reread:
  module.run:
    - name: ipsec.reread
    - require:
      - service: openswan_service

openswan_current:
  ipsec.current:
    - name: ipsec
    - addresses: {{ gateway.virtual | map(attribute='address') | list | json }}
    - certificates: {{ salt['ipsec.certificates'](gateway) | json }}
    - pillar: gateway_secrets:certificates
    - require:
      - module: openswan_reread

{%- set secrets = salt['pillar.get']('gateway_secrets', {}) %}
{%- if 'revoked' in secrets and secrets.crls %}

# Tunnels of revoked people end at once, and again until the daemon has read the new list, as their clients call back.
openswan_expelled:
  ipsec.expelled:
    - name: ipsec
    - pillar: gateway_secrets:revoked
    - require:
      - ipsec: openswan_current

openswan_lists:
  module.run:
    - name: ipsec.take_lists
    - revoked: gateway_secrets:revoked
    - require:
      - ipsec: openswan_expelled

openswan_expelled_again:
  ipsec.expelled:
    - name: ipsec
    - pillar: gateway_secrets:revoked
    - onchanges:
      - module: openswan_lists
{%- endif %}
