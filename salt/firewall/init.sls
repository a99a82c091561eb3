{%- set gateway = salt['gateway.settings']() %}

firewall-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.firewall | tojson }}

firewall:
  firewall.applied:
    - source: salt://firewall/files/ruleset.nft.jinja
    - settings: {{ gateway | tojson }}
    - seconds: {{ gateway.rollback.seconds }}
    - confirm_with: {{ gateway.rollback.confirm_with | tojson }}
    - require:
      - pkg: firewall-packages

# Loads /etc/nftables.conf at boot. Not started now: that would only load it once more.
firewall-at-boot:
  service.enabled:
    - name: nftables
    - require:
      - firewall: firewall
