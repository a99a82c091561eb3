{%- set gateway = salt['gateway.settings']() %}
# Peers with several addresses or a name (docs/peers.md). A restart of this process ends no tunnel.
openswan_peers:
  file.recurse:
    - name: /usr/local/lib/gateway/peers
    - source: salt://openswan/peers
    - file_mode: '0644'
    - dir_mode: '0755'
    - makedirs: True
    - clean: True
    - exclude_pat: E@__pycache__|^run$

/usr/local/lib/gateway/peers/run:
  file.managed:
    - source: salt://openswan/peers/run
    - mode: '0755'
    - require:
      - file: openswan_peers

/etc/ipsec.d/gateway-peers.json:
  file.managed:
    - contents: {{ (salt['ipsec.tried'](gateway) | json(indent=1)) | json }}
    - mode: '0644'
    - check_cmd: /usr/bin/timeout --kill-after=5 60 /usr/local/lib/gateway/peers/run check
    - require:
      - pkg: openswan_packages
      - file: /usr/local/lib/gateway/peers/run

/etc/systemd/system/gateway-peers.service:
  file.managed:
    - source: salt://openswan/files/gateway-peers.service
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/gateway-peers.service

openswan_peers_service:
  service.running:
    - name: gateway-peers
    - enable: True
    - require:
      - service: openswan_service
    - watch:
      - file: openswan_peers
      - file: /usr/local/lib/gateway/peers/run
      - file: /etc/ipsec.d/gateway-peers.json
      - file: /etc/systemd/system/gateway-peers.service
