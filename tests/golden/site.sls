# The paper's own gateway, with the values of its listings. Not a site of the tree: the addresses are someone else's.
gateway:
  site: zhwin
  nodes:
    gw-master-dl380: {external: 160.85.178.168, internal: 10.0.0.11}
    gw-slave-dl380: {external: 160.85.178.169, internal: 10.0.0.12}
  bonds:
    external:
      name: bond0
      slaves: {eth0: switch-master, eth1: switch-slave}
      networks: 160.85.160.0/255.255.224.0
      gateway: 160.85.160.1
      virtual: 160.85.178.167
    internal:
      name: bond1
      slaves: {eth2: switch-internal}
      networks: 10.0.0.0/24
      virtual: 10.0.0.10
  ping_nodes: [160.85.160.1, 10.0.0.2]
  identity:
    id: gateway1.zhwin.ch
    certificate: ha_gateway_cert
  connections:
    roadwarrior:
      kind: roadwarrior
      ike: ikev1
      dpd: {delay: 5, timeout: 15}
      proposals: {ike: aes256-sha1-dh14, esp: aes256-sha1}
  heartbeat:
    profile: paper
    paths: {serial: /dev/ttyS0, baud: 19200}
    one_path: true
    auto_failback: true
    mail_to: email@yourdomain.com
  time:
    servers: time.ethz.ch
  sshd:
    permit_root_login: no
    login_grace_time: 600
