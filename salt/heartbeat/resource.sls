{%- set gateway = salt['gateway.settings']() %}
/etc/ha.d/resource.d/gateway:
  file.managed:
    - source: salt://heartbeat/files/gateway
    - mode: '0755'
    - require:
      - pkg: heartbeat_packages

/etc/ha.d/gateway.conf:
  file.managed:
    - source: salt://heartbeat/files/gateway.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | json }}
        tunnels: {{ (salt['ipsec.tunnels'](gateway) if gateway.features.openswan else []) | json }}
    - mode: '0644'
    - require:
      - pkg: heartbeat_packages
{%- if not gateway.heartbeat.agent %}

# On the active node a changed address or tunnel takes effect at once. On the standby this does nothing.
heartbeat_resource_reload:
  cmd.run:
    - name: /etc/ha.d/resource.d/gateway reload 'Salt changed gateway.conf'
    - timeout: 120
    - onchanges:
      - file: /etc/ha.d/gateway.conf
    - require:
      - file: /etc/ha.d/resource.d/gateway
{%- endif %}
