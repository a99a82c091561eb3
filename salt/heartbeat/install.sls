{%- set gateway = salt['gateway.settings']() %}
# The package starts the daemon at once; without ha.cf it only says so and ends.
heartbeat_packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.heartbeat | json }}
    - install_recommends: False

heartbeat_unit:
  file.managed:
    - name: /etc/systemd/system/heartbeat.service.d/gateway.conf
    - source: salt://heartbeat/files/heartbeat.service.conf
    - mode: '0644'
    - makedirs: True
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: heartbeat_unit

/usr/local/sbin/heartbeat-check:
  file.managed:
    - source: salt://heartbeat/files/heartbeat-check
    - mode: '0755'
