{%- set gateway = salt['gateway.settings']() %}
{%- for certificate in salt['ipsec.certificates'](gateway) %}
openswan_certificate_{{ certificate }}:
  certs.present:
    - name: {{ certificate }}
    - pillar: gateway_secrets:certificates:{{ certificate }}
    - identity: {{ gateway.identity.certified | json }}
    - require:
      - pkg: openswan_packages
    - onchanges_in:
      - module: openswan_reread
{%- endfor %}
{%- set revoked = 'revoked' in salt['pillar.get']('gateway_secrets', {}) %}
{%- for crl in salt['pillar.get']('gateway_secrets:crls', {}) %}
openswan_crl_{{ loop.index }}:
  certs.crl_present:
    - name: {{ crl | json }}
    - pillar: {{ ('gateway_secrets:crls:' ~ crl) | json }}
    - require:
      - pkg: openswan_packages
    {#- No reload is needed: the daemon looks for lists by itself (crlcheckinterval). #}
    {%- if revoked %}
    - onchanges_in:
      - module: openswan_lists
    {%- endif %}
{%- endfor %}
