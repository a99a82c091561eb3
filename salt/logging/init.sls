{%- set gateway = salt['gateway.settings']() %}

logging-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.logging | tojson }}
    - install_recommends: False

/etc/rsyslog.d/60-gateway.conf:
  file.managed:
    - source: salt://logging/files/rsyslog.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | tojson }}
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/sbin/rsyslogd -N1 -f
    - require:
      - pkg: logging-packages

/etc/logrotate.d/gateway:
  file.managed:
    - source: salt://logging/files/logrotate.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | tojson }}
    - require:
      - pkg: logging-packages

rsyslog:
  service.running:
    - enable: True
    - require:
      - pkg: logging-packages
    - watch:
      - file: /etc/rsyslog.d/60-gateway.conf

# Record what this formula manages, for the drift beacon.
logging-recorded:
  drift.recorded:
    - name: logging
