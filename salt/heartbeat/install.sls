{%- set gateway = salt['gateway.settings']() %}
# The package starts the daemon at once. Without ha.cf it only reports that, and ends.
heartbeat_packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.heartbeat | json }}
    - install_recommends: False

# The decider must not change under a running heartbeat, so the files that depend on it require this state.
heartbeat_way:
  heartbeat.way:
    - name: {{ 'agent' if gateway.heartbeat.agent else 'scripts' }}
    - port: {{ gateway.heartbeat.port }}

heartbeat_unit:
  file.managed:
    - name: /etc/systemd/system/heartbeat.service.d/gateway.conf
    - source: salt://heartbeat/files/heartbeat{{ '-agent' if gateway.heartbeat.agent else '' }}.service.conf
    - mode: '0644'
    - makedirs: True
    - require:
      - heartbeat: heartbeat_way
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: heartbeat_unit

/usr/local/sbin/heartbeat-check:
  file.managed:
    - source: salt://heartbeat/files/heartbeat-check
    - mode: '0755'
