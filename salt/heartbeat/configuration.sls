{%- set gateway = salt['gateway.settings']() %}
# heartbeat's own parser reads each file before it is put in place.
/etc/ha.d/ha.cf:
  file.managed:
    - source: salt://heartbeat/files/ha.cf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | json }}
    - mode: '0644'
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/local/sbin/heartbeat-check ha.cf
    - require:
      - pkg: heartbeat_packages
      - file: /usr/local/sbin/heartbeat-check
      - heartbeat: heartbeat_way
      {%- if gateway.heartbeat.agent %}
      - file: /etc/ha.d/agent.json
      {%- endif %}

# The resource's owner and the key between the nodes: while the pair runs, a change of these two waits for a person.
/etc/ha.d/haresources:
  heartbeat.haresources:
    - contents: {{ salt['heartbeat.haresources'](gateway) | json }}
    - require:
      - file: /etc/ha.d/ha.cf
      - file: /etc/ha.d/resource.d/gateway

/etc/ha.d/authkeys:
  heartbeat.authkeys:
    - key_pillar: gateway_secrets:heartbeat:key
    - method: {{ gateway.heartbeat.authentication }}
    - peer: {{ gateway.peer }}
    - require:
      - file: /etc/ha.d/ha.cf
