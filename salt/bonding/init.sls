{%- set gateway = salt['gateway.settings']() %}

include:
  - .rollback
  {%- if gateway.features.kernel %}
  - kernel
  {%- endif %}

bonding-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.bonding | tojson }}
    - install_recommends: False

# One state for all bonds: they change together, and the master is asked once whether it is still reached.
bonds:
  bonding.applied:
    - bonds: {{ gateway.bonds | tojson }}
    - manager: {{ gateway.network.manager }}
    - seconds: {{ gateway.rollback.seconds }}
    - confirm_with: {{ gateway.rollback.confirm_with | tojson }}
    - require:
      - pkg: bonding-packages
      - file: gateway-rollback-boot-wanted
      {%- if gateway.features.kernel %}
      - sls: kernel
      {%- endif %}

# Record what this formula manages, for the drift beacon.
bonding-recorded:
  drift.recorded:
    - name: bonding
