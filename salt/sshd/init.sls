{%- set gateway = salt['gateway.settings']() %}

sshd-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.sshd | tojson }}
    - install_recommends: False

# sshd takes the first value it reads, and its own file includes this folder before all else.
/etc/ssh/sshd_config.d/10-gateway.conf:
  file.managed:
    - source: salt://sshd/files/sshd.conf.jinja
    - template: jinja
    - context:
        gateway: {{ gateway | tojson }}
    - mode: '0600'
    - check_cmd: /usr/sbin/sshd -t -f
    - require:
      - pkg: sshd-packages

ssh:
  service.running:
    - enable: True
    # a reload keeps the sessions that are open
    - reload: True
    - require:
      - pkg: sshd-packages
    - watch:
      - file: /etc/ssh/sshd_config.d/10-gateway.conf

# What it manages is written down, for the drift beacon.
sshd-recorded:
  drift.recorded:
    - name: sshd
