# The paper's topology: two nodes, the external bond on two switches, one internal
# network, one virtual address on each side, roadwarriors from anywhere.
# Every key is explained in docs/site-reference.md; what is not here has a default.
gateway:
  site: winterthur
  nodes:                       # as `uname -n` prints it; the first is the paper's master
    gw1: {external: 192.0.2.11, internal: 198.51.100.11}
    gw2: {external: 192.0.2.12, internal: 198.51.100.12}
  bonds:
    external:
      name: bond0
      slaves: {eth0: switch-a, eth1: switch-b}     # interface: the switch it is plugged into
      networks: 192.0.2.0/26
      gateway: 192.0.2.1
      virtual: 192.0.2.10
    internal:
      name: bond1
      slaves: {eth2: switch-c}
      networks: 198.51.100.0/26
      virtual: 198.51.100.10
  ping_nodes: [192.0.2.1, 198.51.100.2]            # before and behind the gateway
  identity:
    id: gateway.winterthur.example
    certificate: gateway                           # its key and chain: pillar/secrets/winterthur.sls
  connections:
    roadwarrior:
      kind: roadwarrior
      subject: OU=winterthur, CN=*                 # who gets in: as `salt-run authority` writes it; no other site's
      pool: 198.51.100.192/27
      dpd: {delay: 5, timeout: 15}
    bern:
      kind: site-to-site
      peer: {address: 192.0.2.74, id: gateway.bern.example, subnets: 198.51.100.64/26}
      initiate: false                              # bern calls
  heartbeat:
    paths: [{broadcast: bond1}, {broadcast: bond0}]
    auto_failback: false
  firewall:
    ssh_from: 198.51.100.0/26
