{%- set gateway = salt['gateway.settings']() %}
openswan_packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.openswan | json }}
    - install_recommends: False

# Before the daemon's first start by Salt: it notes with what file the daemon runs, so that a
# change can be told from what is loaded (ipsec.pending).
/etc/systemd/system/ipsec.service.d/gateway.conf:
  file.managed:
    - source: salt://openswan/files/ipsec.service.conf
    - mode: '0644'
    - makedirs: True
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/ipsec.service.d/gateway.conf

# By the daemon at each start; now, since the package may have started it before.
/usr/local/sbin/esp-warm-up:
  file.managed:
    - source: salt://openswan/files/esp-warm-up
    - mode: '0755'
  cmd.run:
    - name: /usr/local/sbin/esp-warm-up
    - require:
      - pkg: openswan_packages
    - onchanges:
      - file: /usr/local/sbin/esp-warm-up
