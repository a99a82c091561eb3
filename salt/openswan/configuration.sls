{%- set gateway = salt['gateway.settings']() %}
# The daemon's own parser sees the file before it gets its name. It warns about a value it does not
# understand and goes on without it, so anything it says refuses the file.
/etc/ipsec.conf:
  file.managed:
    - source: salt://openswan/files/ipsec.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | json }}
    - mode: '0644'
    - check_cmd: sh -c 'said=$(ipsec addconn --checkconfig --config "$0" 2>&1) && test -z "$said" || { echo "$said"; exit 1; }'
    - require:
      - pkg: openswan_packages

/etc/ipsec.secrets:
  file.managed:
    - source: salt://openswan/files/ipsec.secrets.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | json }}
    - mode: '0600'
    - user: root
    - group: root
    - show_changes: False
    - require:
      - pkg: openswan_packages
    - onchanges_in:
      - module: openswan_reread
