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
