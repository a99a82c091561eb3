{%- set gateway = salt['gateway.settings']() %}

# The rules contain the names of the bonds. Without these, the way back at boot is needed all the same.
include:
  - {{ 'bonding' if gateway.features.bonding else 'bonding.rollback' }}

firewall-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.firewall | tojson }}
    - install_recommends: False

firewall:
  firewall.applied:
    - source: salt://firewall/files/ruleset.nft.jinja
    - settings: {{ gateway | tojson }}
    - seconds: {{ gateway.rollback.seconds }}
    - confirm_with: {{ gateway.rollback.confirm_with | tojson }}
    - require:
      - pkg: firewall-packages
      - file: gateway-rollback-boot-wanted
      {%- if gateway.features.bonding %}
      - sls: bonding
      {%- endif %}

# Loads /etc/nftables.conf at boot. Not started now, as that would only load the file a second time.
firewall-at-boot:
  service.enabled:
    - name: nftables
    - require:
      - firewall: firewall

# Record what this formula manages, for the drift beacon.
firewall-recorded:
  drift.recorded:
    - name: firewall
