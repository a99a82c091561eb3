{%- set gateway = salt['gateway.settings']() %}
openswan_packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.openswan | json }}
    - install_recommends: False

# Before Salt first starts the daemon: this records which file the daemon has loaded, so that a
# later change can be recognised (ipsec.pending).
/etc/systemd/system/ipsec.service.d/gateway.conf:
  file.managed:
    - source: salt://openswan/files/ipsec.service.conf
    - mode: '0644'
    - makedirs: True
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/ipsec.service.d/gateway.conf

# The daemon runs it at each start. It runs now as well, since the package may have started the daemon before.
/usr/local/sbin/esp-warm-up:
  file.managed:
    - source: salt://openswan/files/esp-warm-up
    - mode: '0755'
  cmd.run:
    - name: /usr/local/sbin/esp-warm-up
    - timeout: 30
    - require:
      - pkg: openswan_packages
    - onchanges:
      - file: /usr/local/sbin/esp-warm-up
