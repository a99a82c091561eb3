{%- set gateway = salt['gateway.settings']() %}
# The IPsec daemon: chapter 4.4 of the paper. It is Libreswan, which continues Openswan.
include:
  - .install
  - .certificates
  - .configuration
  - .service
{%- if salt['ipsec.tried'](gateway) %}
  - .peers
{%- elif salt['file.file_exists']('/etc/systemd/system/gateway-peers.service') %}
  - .peers_off
{%- endif %}

# Record what this formula manages, for the drift beacon.
openswan-recorded:
  drift.recorded:
    - name: openswan
