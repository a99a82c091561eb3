# All packages at once: apt and dpkg start once instead of once for each formula. Each formula still requires its own.
# Recommended packages are not installed: heartbeat's alone are 600 (compilers, cloud clients) on Debian 13.
{%- set gateway = salt['gateway.settings']() %}

all-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.values() | sum(start=[]) | tojson }}
    - install_recommends: False
