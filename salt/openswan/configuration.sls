{%- set gateway = salt['gateway.settings']() %}
/etc/ipsec.conf:
  ipsec.configured:
    - source: salt://openswan/files/ipsec.conf.jinja
    - settings: {{ gateway | json }}
    - require:
      - sls: openswan.install
      - sls: openswan.certificates

openswan_admits:
  ipsec.admits:
    - settings: {{ gateway | json }}
    - require:
      - ipsec: /etc/ipsec.conf

/etc/ipsec.secrets:
  file.managed:
    - source: salt://openswan/files/ipsec.secrets.jinja
    - template: jinja
    - context:
        secrets: {{ salt['ipsec.shared_secrets'](gateway) | json }}
    - mode: '0600'
    - user: root
    - group: root
    - show_changes: False
    - require:
      - sls: openswan.install
    - onchanges_in:
      - module: openswan_reread
