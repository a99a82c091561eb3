# Everything in one go: apt and dpkg start once instead of once a formula. Each formula still asks for its own.
# Recommended packages stay out: heartbeat's alone bring 600 (compilers, cloud clients) onto Debian 13.
{%- set gateway = salt['gateway.settings']() %}

all-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.values() | sum(start=[]) | tojson }}
    - install_recommends: False
