# IPv4 and IPv6, a tunnel to another site, systemd's interface names, heartbeat over unicast.
gateway:
  site: bern
  nodes:
    gw-a:
      external: [192.0.2.75, '2001:db8:be::b']
      internal: [198.51.100.75, '2001:db8:be:1::b']
    gw-b:
      external: [192.0.2.76, '2001:db8:be::c']
      internal: [198.51.100.76, '2001:db8:be:1::c']
  bonds:
    external:
      name: outside
      slaves: {enp1s0f0: switch-a, enp1s0f1: switch-b}
      networks: [192.0.2.64/26, '2001:db8:be::/64']
      gateway: [192.0.2.65, '2001:db8:be::1']
      virtual: [192.0.2.74, '2001:db8:be::a']
    internal:
      name: inside
      slaves: {enp2s0f0: switch-c, enp2s0f1: switch-d}
      networks: [198.51.100.64/26, '2001:db8:be:1::/64']
      virtual: [198.51.100.74, '2001:db8:be:1::a']
      monitor:
        arp: {interval: 250, targets: [198.51.100.66]}
  ping_nodes: [192.0.2.65, 198.51.100.66]
  identity:
    id: gateway.bern.example
    certificate: gateway
  connections:
    roadwarrior:
      kind: roadwarrior
      subject: OU=bern, CN=*                         # who gets in besides the persons, by the certificate's subject
      persons: {anna.example: 198.51.100.240}        # each keeps its address, also after a takeover
      pool: 198.51.100.224/28                        # for whoever else has a certificate
    winterthur:
      kind: site-to-site
      peer: {address: 192.0.2.10, id: gateway.winterthur.example, subnets: 198.51.100.0/26}
  heartbeat:
    paths: [{unicast: inside}, {unicast: outside}]
  firewall:
    ssh_from: [198.51.100.64/26, '2001:db8:be:1::/64']
