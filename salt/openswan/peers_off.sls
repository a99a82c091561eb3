# No peer of this site has several addresses or a name (any more).
openswan_peers_off:
  service.dead:
    - name: gateway-peers
    - enable: False

openswan_peers_files_off:
  file.absent:
    - names:
      - /etc/ipsec.d/gateway-peers.json
      - /etc/systemd/system/gateway-peers.service
      - /usr/local/lib/gateway/peers
    - require:
      - service: openswan_peers_off
