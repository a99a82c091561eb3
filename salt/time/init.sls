{%- set gateway = salt['gateway.settings']() %}

time-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.time | tojson }}
    - install_recommends: False

/etc/chrony/chrony.conf:
  file.managed:
    - source: salt://time/files/chrony.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | tojson }}
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/sbin/chronyd -p -f
    - require:
      - pkg: time-packages

chrony:
  service.running:
    - enable: True
    - require:
      - pkg: time-packages
    - watch:
      - file: /etc/chrony/chrony.conf

# Record what this formula manages, for the drift beacon.
time-recorded:
  drift.recorded:
    - name: time
