{%- set gateway = salt['gateway.settings']() %}

sshd-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.sshd | tojson }}
    - install_recommends: False

# sshd uses the first value that it reads, and its own file includes this folder before everything else.
/etc/ssh/sshd_config.d/10-gateway.conf:
  file.managed:
    - source: salt://sshd/files/sshd.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | tojson }}
    - mode: '0600'
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/sbin/sshd -t -f
    - require:
      - pkg: sshd-packages

ssh:
  service.running:
    - enable: True
    # a reload keeps open sessions
    - reload: True
    - require:
      - pkg: sshd-packages
    - watch:
      - file: /etc/ssh/sshd_config.d/10-gateway.conf

# Record what this formula manages, for the drift beacon.
sshd-recorded:
  drift.recorded:
    - name: sshd
