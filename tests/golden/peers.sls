# A site that uses every form of identity and of peers' addresses; tests/golden/test_peers.py holds its files.
gateway:
  site: zug
  nodes:
    gw1: {external: 192.0.2.11, internal: 198.51.100.11}
    gw2: {external: 192.0.2.12, internal: 198.51.100.12}
  bonds:
    external:
      name: bond0
      slaves: {eth0: switch-a, eth1: switch-b}
      networks: 192.0.2.0/26
      gateway: 192.0.2.1
      virtual: 192.0.2.10
    internal:
      name: bond1
      slaves: {eth2: switch-c}
      networks: 198.51.100.0/26
      virtual: 198.51.100.10
  ping_nodes: [192.0.2.1, 198.51.100.2]
  identity: {id: gateway.zug.example, certificate: gateway}
  connections:
    roadwarrior:
      kind: roadwarrior
      subject: OU=zug, CN=*
      pool: 198.51.100.192/27
    azure:                      # one address, which is its identity
      kind: site-to-site
      auth: psk
      local: {id: 192.0.2.10}
      peer: {address: 203.0.113.5, subnets: 10.20.0.0/16}
    aws:                        # two addresses, each with its own identity and secret
      kind: site-to-site
      auth: psk
      local: {id: 192.0.2.10}
      peer: {address: [203.0.113.33, 203.0.113.65], subnets: [172.31.0.0/16, 172.30.0.0/16]}
      proposals: {ike: aes256-sha2_256-dh14, esp: aes256-sha2_256}
    fortigate:                  # key ids, one in text and one in bytes
      kind: site-to-site
      auth: psk
      local: {id: "keyid:0x00ff10"}
      peer: {address: 203.0.113.7, id: "keyid:branch-7", subnets: 10.7.0.0/24}
    mail:
      kind: site-to-site
      auth: psk
      local: {id: vpn@zug.example}
      peer: {address: 203.0.113.8, id: vpn@basel.example, subnets: 10.8.0.0/24}
    partner:                    # a distinguished name, with certificates
      kind: site-to-site
      peer: {address: 203.0.113.9, id: "C=DE, O=Partner GmbH, CN=vpn", subnets: 10.9.0.0/24}
    dsl:                        # an address that changes, behind NAT
      kind: site-to-site
      auth: psk
      peer: {address: any, id: branch.zug.example, subnets: 10.30.0.0/24}
    shop:                       # from anywhere, with a certificate
      kind: site-to-site
      peer: {address: any, id: shop.zug.example, subnets: 10.31.0.0/24}
    home:                       # by a name, and a second line
      kind: site-to-site
      auth: psk
      dpd: {delay: 5, timeout: 20}
      peer: {address: [home.dyn.example, 203.0.113.99], id: "keyid:home", subnets: 10.32.0.0/24}
  heartbeat:
    paths: [{broadcast: bond1}, {broadcast: bond0}]
