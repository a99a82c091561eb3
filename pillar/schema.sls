#!yaml
# What a site may say (pillar/sites/SITE.sls), and the only place that has its defaults.
# _modules/gateway.py checks and completes every site by this; docs/site-reference.md is made from it
# with `salt-run gateway.reference`.
#
#   type         text, name, address, network, ... (`gateway.reference` explains each), or
#                list (of: what; one alone needs no brackets), or mapping (names: what, of: what)
#   keys         the value is a mapping with these keys and no others
#   required     true: it has to be given
#   default      its value when it is left out; a mapping given by a site is laid over it, a list replaces it
#   derived      in words: its value when it is left out and follows from other keys
#   optional     with keys: left out it stays out, instead of being made of its keys' defaults
#   counterpart  what it becomes in the configuration of the kernel or daemon
gateway_schema:
  site:
    type: name
    required: true
    about: The site's name, the SITE of the file's name and of the minion ids NODE.SITE.
  nodes:
    type: mapping
    names: hostname
    required: true
    about: The two machines, each as its `uname -n` says. The first is the preferred one, the paper's master.
    counterpart: "`node` in ha.cf"
    of:
      keys:
        external: {type: list, of: address, required: true,
                   about: "Its own addresses in the external bond's networks."}
        internal: {type: list, of: address, required: true,
                   about: "Its own addresses in the internal bond's networks."}
        heartbeat: {type: list, of: address, about: "Its own addresses in the heartbeat bond's networks."}
        primary:
          about: "Which slave a bond prefers on this node, if not the derived one."
          counterpart: bond option `primary`
          keys:
            external: {type: interface,
                       derived: "first node: the first slave; second node: the first slave on another switch",
                       about: "For the external bond."}
            internal: {type: interface, derived: "the same", about: "For the internal bond."}
            heartbeat: {type: interface, derived: "the same", about: "For the heartbeat bond."}
  bonds:
    type: mapping
    names: {type: choice, choices: [external, internal, heartbeat]}
    required: true
    about: >-
      The bonds by side. external (towards the peers) and internal (towards the protected network) are required;
      heartbeat is for machines with a link of their own between them. A bond of a single slave is a bond too.
    of:
      keys:
        name: {type: interface, required: true, about: "The bond's interface name, without a dot: that is a VLAN's."}
        slaves:
          type: mapping
          names: interface
          of: {type: name}
          required: true
          about: "The interfaces in the bond, each with the switch it is plugged into. The order is the order of
            preference."
        mode:
          type: choice
          choices: [active-backup, balance-rr, balance-xor, broadcast, 802.3ad, balance-tlb, balance-alb]
          default: active-backup
          about: "How the slaves are used."
          counterpart: bond option `mode`
        monitor:
          about: "How a broken link is noticed: by carrier (miimon), or by asking neighbours (arp). Not both."
          keys:
            miimon: {type: integer, unit: ms, min: 1, max: 60000, default: 100,
                     about: "How often the carrier is looked at.",
                     counterpart: bond option `miimon`}
            updelay: {type: integer, unit: ms, min: 0, max: 600000, default: 0,
                      about: "How long a link has to be back before it is used; a multiple of miimon.",
                      counterpart: bond option `updelay`}
            downdelay: {type: integer, unit: ms, min: 0, max: 600000, default: 0,
                        about: "How long a link has to be gone before it is left; a multiple of miimon.",
                        counterpart: bond option `downdelay`}
            arp:
              optional: true
              about: "Ask neighbours by ARP; notices a fault behind the next switch as well."
              keys:
                interval: {type: integer, unit: ms, min: 10, max: 60000, default: 250,
                           about: "How often to ask.",
                           counterpart: bond option `arp_interval`}
                targets: {type: list, of: address, max: 16, required: true,
                          about: "Whom to ask: IPv4 addresses in the bond's own networks.",
                          counterpart: bond option `arp_ip_target`}
                validate: {type: choice, choices: [none, active, backup, all], default: none,
                           about: "Which slaves count only answers to their own ARP requests.",
                           counterpart: bond option `arp_validate`}
        networks: {type: list, of: network, required: true,
                   about: "The networks on this side. Each node has one address in each."}
        gateway: {type: list, of: address, default: [],
                  about: "The default gateway, one of each IP version at most.",
                  counterpart: default route}
        virtual: {type: list, of: address, default: [],
                  about: "The addresses that move with the active role. The peers know the external one, the hosts
                    behind the gateway the internal one.",
                  counterpart: "/etc/ha.d/gateway.conf, held by the `gateway` resource in haresources"}
        routes:
          type: list
          default: []
          about: "Further networks that are reached through a router on this side."
          of:
            keys:
              to: {type: network, required: true, about: "The network."}
              via: {type: address, required: true, about: "The router, an address in one of the bond's networks."}
        mtu: {type: integer, unit: bytes, min: 576, max: 65535, default: 1500,
              about: "Maximum transmission unit of the bond and its slaves.",
              counterpart: "`ip link set mtu`"}
        options:
          type: mapping
          names:
            type: choice
            choices: [lacp_rate, ad_select, ad_actor_sys_prio, ad_user_port_key, min_links, xmit_hash_policy,
                      fail_over_mac, num_grat_arp, primary_reselect, all_slaves_active, resend_igmp,
                      packets_per_slave, tlb_dynamic_lb, arp_all_targets, lp_interval]
          of: {type: value}
          default: {}
          about: "Further bond options by their kernel names."
          counterpart: bond options
  ping_nodes:
    type: list
    of: address
    required: true
    about: "Neighbours that show whether a node still reaches both sides: at least one outside and one inside, neither
      of them a gateway node."
    counterpart: "`ping` in ha.cf, read by ipfail"
  identity:
    required: true
    about: "How the gateway shows who it is. Both nodes are the same to a peer."
    keys:
      id: {type: identity, required: true,
           about: "Its name in IKE, one of the certificate's subjectAltNames; without a leading @.",
           counterpart: "`leftid` in ipsec.conf"}
      certificate: {type: name, default: gateway,
                    about: "The name of its certificate under gateway_secrets:certificates.",
                    counterpart: "`leftcert` in ipsec.conf"}
  connections:
    type: mapping
    names: name
    default: {}
    about: "The IPsec connections by name. No two tunnels may be called the same in ipsec.conf, where a person's are called
      CONNECTION-PERSON and CONNECTION-PERSON-dn, and all persons of a connection together CONNECTION-persons."
    counterpart: "`conn` in ipsec.conf"
    of:
      keys:
        kind: {type: choice, choices: [roadwarrior, site-to-site], required: true,
               about: "roadwarrior: people from anywhere. site-to-site: one peer gateway with networks behind it."}
        ike: {type: choice, choices: [ikev2, ikev1], default: ikev2,
              about: "The version of IKE.",
              counterpart: "`keyexchange`, `ikev2` in ipsec.conf"}
        auth: {type: choice, choices: [certificate, psk], default: certificate,
               about: "certificate, or psk: gateway_secrets:psk has a secret of the connection's name.",
               counterpart: "`authby` in ipsec.conf"}
        local:
          about: "This end, where the derived values do not fit."
          keys:
            address: {type: address, derived: "the first external virtual address of the peer's IP version",
                      about: "One of the external virtual addresses.",
                      counterpart: "`left` in ipsec.conf"}
            id: {type: identity, derived: "gateway:identity:id",
                 about: "How the peer knows this end, such as its public address.",
                 counterpart: "`leftid` in ipsec.conf"}
            subnets: {type: list, of: network,
                      derived: "the internal networks of the IP versions that the pool or the peer's subnets have",
                      about: "What the other end may reach. For roadwarriors one network. 0.0.0.0/0 and ::/0:
                        everything, the internet under the virtual address (docs/network.md).",
                      counterpart: "`leftsubnet`, `leftsubnets` in ipsec.conf"}
        peer:
          about: "The other end of a site-to-site connection."
          keys:
            address: {type: list, of: peer, default: [], max: 8,
                      about: "Its address. Several are called in this order until one answers; a DNS name is looked up
                        again when the peer is lost; any is for a peer that calls from wherever it is. Required for
                        site-to-site.",
                      counterpart: "`right` in ipsec.conf"}
            id: {type: identity, derived: "with psk: its address",
                 about: "Who it says it is: a DNS name, an address, a mail address, a distinguished name or a key id.
                   Required with certificates: one of its subjectAltNames, or its subject.",
                 counterpart: "`rightid` in ipsec.conf"}
            subnets: {type: list, of: network, default: [],
                      about: "The networks behind it. Required for site-to-site.",
                      counterpart: "`rightsubnet`, `rightsubnets` in ipsec.conf"}
        subject: {type: subject,
                 about: "Whose certificates get in besides the persons', by their subject: all parts of it, in any
                   order, `*` for any value; `any` for everybody whom the gateway's own authority has certified. Needs
                   IKEv2. Left out: the people of this site, if the master's own authority (`salt-run authority`) issued
                   the gateway's certificate and there are no persons; otherwise as with `any`, and with a warning.",
                 counterpart: "`rightid` in ipsec.conf"}
        pool: {type: list, of: pool, default: [],
               about: "Where roadwarriors get their inner addresses from: a network or first-last. Needs IKEv2.",
               counterpart: "`rightaddresspool` in ipsec.conf"}
        persons:
          type: mapping
          names: person
          of: {type: list, of: address}
          default: {}
          about: "Roadwarriors with an inner address of their own, by the name in their certificate: the same one on
            both nodes, so that connections inside the tunnel outlive a takeover. Without one, it may be that nothing
            passes the tunnel of a Libreswan client after a takeover. With persons and without a pool nobody else is let
            in. Needs IKEv2."
          counterpart: "a `conn` with `rightid` and a `rightaddresspool` of one address in ipsec.conf"
        dns: {type: list, of: address, default: [],
              about: "Name servers for the roadwarriors. Needs a pool or persons.",
              counterpart: "`modecfgdns` in ipsec.conf"}
        initiate: {type: bool, derived: "true for site-to-site, false for roadwarrior",
                   about: "Whether the active node calls the peer. The standby never does."}
        dpd:
          about: "Dead peer detection."
          keys:
            delay: {type: integer, unit: s, min: 1, max: 3600, default: 5,
                    about: "Silence after which the peer is asked.",
                    counterpart: "`dpddelay` in ipsec.conf"}
            timeout: {type: integer, unit: s, min: 1, max: 86400, default: 15,
                      about: "Silence after which the peer is given up.",
                      counterpart: "`dpdtimeout`; with IKEv2 `retransmit-timeout` in ipsec.conf"}
        proposals:
          about: "The algorithms, best first, as Libreswan writes them. Left out: a modern choice (AES-GCM, SHA-2, DH
            19, 20, 14)."
          keys:
            ike: {type: list, of: proposal, default: [], about: "For the IKE SA.", counterpart: "`ike` in ipsec.conf"}
            esp: {type: list, of: proposal, default: [],
                  about: "For the traffic's SAs.",
                  counterpart: "`esp` in ipsec.conf"}
        lifetime:
          about: "How long a security association lasts."
          keys:
            ike: {type: integer, unit: s, min: 300, max: 86400, default: 28800,
                  about: "The IKE SA.",
                  counterpart: "`ikelifetime` in ipsec.conf"}
            esp: {type: integer, unit: s, min: 300, max: 86400, default: 3600,
                  about: "The traffic's SAs.",
                  counterpart: "`salifetime` in ipsec.conf"}
        options:
          type: mapping
          names:
            type: choice
            choices: [fragmentation, encapsulation, compress, replay-window, esn, pfs, narrowing, modecfgdomains,
                      rekeymargin, rekeyfuzz, nat-keepalive, nic-offload, sha2-truncbug, ms-dh-downgrade,
                      send-redirect, accept-redirect, decap-dscp, encap-dscp, nopmtudisc, tfc, mtu, priority, metric,
                      leftsendcert, rightca, keyingtries, retransmit-interval]
          of: {type: option}
          default: {}
          about: "Further options by their ipsec.conf names. Options that would let a connection leave the virtual
            address are not among them. `mtu` is refused: it is for routes, which the gateway's tunnels have none of."
          counterpart: ipsec.conf
        mtu: {type: integer, unit: bytes, min: 576, max: 65535,
              derived: "of gateway:tunnels; else that of the external bond, for roadwarriors 1500 at most",
              about: "The largest IP packet that the way to the other end takes, IPsec's own headers included. From it
                follows the largest TCP segment. Needs the firewall.",
              counterpart: "`tcp option maxseg` in the ruleset"}
        mss: {type: integer, unit: bytes, min: 400, max: 65475,
              derived: "of gateway:tunnels; else what fits in the mtu with the algorithms that add most",
              about: "The largest TCP segment over IPv4; over IPv6 20 less. Instead of mtu; a number that does not fit in
                the derived mtu is not reached. Needs the firewall.",
              counterpart: "`tcp option maxseg` in the ruleset"}
  tunnels:
    about: "What fits through the tunnels, for all connections that say nothing of it: see docs/network.md."
    keys:
      mtu: {type: integer, unit: bytes, min: 576, max: 65535,
            derived: "that of the external bond, for roadwarriors 1500 at most",
            about: "As a connection's mtu.",
            counterpart: "`tcp option maxseg` in the ruleset"}
      mss: {type: integer, unit: bytes, min: 400, max: 65475,
            derived: "what fits in the mtu with the algorithms that add most",
            about: "As a connection's mss.",
            counterpart: "`tcp option maxseg` in the ruleset"}
  heartbeat:
    required: true
    about: "How the nodes watch each other."
    keys:
      profile:
        type: choice
        choices:
          # agent: who decides, see docs/takeover.md. Not below 250 ms for deadtime: heartbeat looks no more often.
          default:
            {agent: true, keepalive: 200ms, warntime: 600ms, deadtime: 1, deadping: 1, initdead: 30,
             about: "a crash is noticed within 1.25 s, and a machine that stalls for half a second keeps its role"}
          fast:
            {agent: true, keepalive: 100ms, warntime: 200ms, deadtime: 300ms, deadping: 1, initdead: 30,
             about: "a crash is noticed within 0.55 s, and a machine that stalls for a quarter of a second may lose its
               role"}
          paper:
            {agent: false, keepalive: 2, deadtime: 10, initdead: 120,
             about: "the paper's own, decided by heartbeat's scripts: a short stall is not taken for a crash, and a
               crash is noticed after 10 s"}
        default: default
        about: "The timing in one word, and with it who decides: the role agent, or in `paper` heartbeat's own scripts;
          each of the five times below overrides the profile's."
      keepalive: {type: duration, derived: by profile,
                  about: "Time between two heartbeats.",
                  counterpart: "`keepalive` in ha.cf"}
      warntime: {type: duration, derived: "by profile; none in `paper`",
                 about: "Silence that is worth a line in the log.",
                 counterpart: "`warntime` in ha.cf"}
      deadtime: {type: duration, derived: by profile,
                 about: "Silence after which the other node is dead. heartbeat looks every 250 ms.",
                 counterpart: "`deadtime` in ha.cf"}
      deadping: {type: duration, derived: "by profile; in `paper` the deadtime",
                 about: "Silence after which a ping node is not reached any more.",
                 counterpart: "`deadping` in ha.cf"}
      initdead: {type: duration, derived: by profile,
                 about: "The deadtime right after heartbeat's own start, when the network may not be up.",
                 counterpart: "`initdead` in ha.cf"}
      paths:
        type: list
        required: true
        about: "Over what heartbeats go; more than one, so that a single cut is no split. Each is one of unicast,
          broadcast, multicast and serial."
        of:
          keys:
            unicast: {type: interface,
                      about: "A bond, to the other node's address in it.",
                      counterpart: "`ucast` in ha.cf"}
            broadcast: {type: interface, about: "A bond, to everyone in it.", counterpart: "`bcast` in ha.cf"}
            multicast: {type: interface, about: "A bond, to a group in it.", counterpart: "`mcast` in ha.cf"}
            group: {type: group, default: 239.0.0.43, about: "The multicast group.", counterpart: "`mcast` in ha.cf"}
            serial: {type: serial, about: "A serial line between the nodes.", counterpart: "`serial` in ha.cf"}
            baud: {type: integer, min: 1200, max: 460800, default: 19200,
                   about: "The serial line's speed.",
                   counterpart: "`baud` in ha.cf"}
      one_path: {type: bool, default: false,
                 about: "Accepts a single path, although its cut alone makes both nodes active."}
      port: {type: integer, min: 1, max: 65535, default: 694,
             about: "The UDP port; none that something else on a gateway has, such as 500 or 4500.",
             counterpart: "`udpport` in ha.cf"}
      auto_failback: {type: bool, default: false,
                      about: "Whether the preferred node takes over again when it comes back; otherwise that is the
                        operator's decision.",
                      counterpart: "`failback` in agent.json; `auto_failback` in ha.cf"}
      failback_delay: {type: integer, unit: s, min: 10, max: 86400, derived: "300; nothing in `paper`",
                       about: "How long the preferred node has to be up and healthy before it takes over again; doubled
                         with each further time within an hour.",
                       counterpart: "`failback_delay` in agent.json"}
      compare: {type: bool, default: false,
                about: "Whether a node that has booted must be compared with the master before a planned move gives it
                  the role. For masters whose engine gateway_resync is on, or where somebody applies after each boot.
                  Not in `paper`.",
                counterpart: "`compare` in agent.json"}
      fence:
        optional: true
        about: "A command that makes sure that the other node is off (STONITH), run before its addresses are taken over.
          It gets the other node's name as its argument. When it fails nothing is taken over, and it is tried again."
        counterpart: "`fence` in agent.json"
        keys:
          command: {type: path, required: true, about: "The program, which has to be on both nodes."}
          timeout: {type: integer, unit: s, min: 1, max: 300, default: 10,
                    about: "After how long it counts as failed."}
      watchdog: {type: watchdog,
                 about: "A watchdog device, /dev/watchdog with softdog or a machine's own: a node whose heartbeat hangs
                   is reset.",
                 counterpart: "`watchdog` in ha.cf"}
      authentication: {type: choice, choices: [sha1, md5], default: sha1,
                       about: "How heartbeats are signed, with gateway_secrets:heartbeat:key.",
                       counterpart: authkeys}
      ipfail: {type: bool, default: true,
               about: "Give up the active role when the other node reaches more ping nodes. The agent always does;
                 false is for `paper` only.",
               counterpart: "`respawn` ipfail in ha.cf"}
      mail_to: {type: list, of: email, default: [],
                about: "Who gets a mail at a takeover, in `paper`. The nodes have to be able to send mail.",
                counterpart: "`MailTo` in haresources"}
      mail_subject: {type: name, default: ha-failover,
                     about: "What that mail's subject starts with.",
                     counterpart: "`MailTo` in haresources"}
      log_facility: {type: choice, choices: [daemon, local0, local1, local2, local3, local4, local5, local6, local7,
                       none], default: local0,
                     about: "The syslog facility.",
                     counterpart: "`logfacility` in ha.cf"}
      log_file: {type: log, default: /var/log/ha-log,
                 about: "The log. rsyslog writes it, so that heartbeat never waits for a disk; in `paper` heartbeat
                   does.",
                 counterpart: "`logfile` in ha.cf"}
      debug_file: {type: log, default: /var/log/ha-debug,
                   about: "The log with more in it, in `paper`.",
                   counterpart: "`debugfile` in ha.cf"}
  firewall:
    about: "What the nodes let in besides IKE, NAT-T and ESP, and heartbeats from each other."
    keys:
      ssh_from: {type: list, of: network, derived: "the internal networks",
                 about: "From where SSH is let in.",
                 counterpart: "`tcp dport 22` in the ruleset"}
      log_dropped: {type: bool, default: true,
                    about: "Whether dropped packets leave a line in the log, a few a second at most.",
                    counterpart: "`log` in the ruleset"}
      extra:
        about: "Rules of the site's own, each put before the last, dropping rule of its chain. Checked with `nft -c`
          before use."
        counterpart: the chain's rules
        keys:
          input: {type: list, of: rule, default: [], about: "For packets to the node."}
          forward: {type: list, of: rule, default: [], about: "For packets through the node."}
          output: {type: list, of: rule, default: [], about: "For packets from the node."}
  kernel:
    about: "Kernel modules and parameters."
    keys:
      modules:
        type: list
        of: name
        default: [bonding, xfrm_user, esp4, esp6, gcm]
        about: "Modules that are loaded now and at boot."
        counterpart: /etc/modules-load.d
      sysctl:
        type: mapping
        names: sysctl
        of: {type: value}
        about: "Kernel parameters. Those of net.ipv6 are left out where a site has no IPv6 address."
        counterpart: /etc/sysctl.d
        default:
          net.ipv4.ip_forward: 1
          net.ipv6.conf.all.forwarding: 1
          # Loose: an address has to be reachable, by whatever interface. Strict would drop what comes in on one bond
          # and is answered over another; what came out of a tunnel is not looked at (secpath_exists, fib_frontend.c).
          net.ipv4.conf.all.rp_filter: 2
          net.ipv4.conf.default.rp_filter: 2
          # A redirect would lead a host past the tunnel, or show it one node's own address.
          net.ipv4.conf.all.accept_redirects: 0
          net.ipv4.conf.default.accept_redirects: 0
          net.ipv4.conf.all.send_redirects: 0
          net.ipv4.conf.default.send_redirects: 0
          net.ipv4.conf.all.accept_source_route: 0
          net.ipv4.conf.default.accept_source_route: 0
          # Asked on the external side for an internal address, be silent. Not 2: the virtual addresses are /32.
          net.ipv4.conf.all.arp_ignore: 1
          # Ask with an address of the interface itself: with the virtual one the node that is leaving would draw its
          # neighbours back to itself at every switch-over.
          net.ipv4.conf.all.arp_announce: 2
          net.ipv6.conf.all.accept_redirects: 0
          net.ipv6.conf.default.accept_redirects: 0
          net.ipv6.conf.all.accept_ra: 0
          net.ipv6.conf.default.accept_ra: 0
      printk: {type: levels, default: "4 4 1 7",
               about: "Which kernel messages reach the console; the paper's `klogd -c 4`.",
               counterpart: sysctl `kernel.printk`}
  logging:
    about: "The log files."
    keys:
      warn_file: {type: log, default: /var/log/warn,
                  about: "Where warnings and worse of every facility go.",
                  counterpart: "`*.warn` in rsyslog"}
  time:
    about: "Both nodes need the same time, to compare logs and to check certificates."
    keys:
      servers: {type: list, of: server, default: [0.debian.pool.ntp.org, 1.debian.pool.ntp.org,
                  2.debian.pool.ntp.org],
                about: "The time servers.",
                counterpart: "`server` in chrony.conf"}
  sshd:
    about: "How people log in."
    keys:
      permit_root_login: {type: choice, choices: ["no", prohibit-password, "yes"], default: prohibit-password,
                          about: "Whether root may: `no`, the paper's, locks everyone out of a host that knows only
                            root.",
                          counterpart: "`PermitRootLogin` in sshd_config"}
      login_grace_time: {type: integer, unit: s, min: 1, max: 3600, default: 120,
                         about: "How long logging in may take.",
                         counterpart: "`LoginGraceTime` in sshd_config"}
      strict_modes: {type: bool, default: true,
                     about: "Whether files that others may write are refused.",
                     counterpart: "`StrictModes` in sshd_config"}
  services:
    about: "What a gateway has no use for."
    keys:
      disabled:
        type: list
        of: unit
        default: [rpcbind, rpcbind.socket, nfs-server, nfs-blkmap, openbsd-inetd, inetutils-inetd, cups, cups.socket,
          lpd, avahi-daemon, avahi-daemon.socket]
        about: "Services that are stopped and not started at boot, where they are installed; none that the gateway or
          its operator needs, such as ssh and salt-minion."
        counterpart: "`systemctl disable --now`"
  rollback:
    about: "A node rolls a change of the network or the firewall back by itself, unless it reaches the Salt master again
      after the change."
    keys:
      seconds: {type: integer, unit: s, min: 10, max: 600, default: 60,
                about: "How long it may take until the master is reached."}
      confirm_with: {type: list, of: address, derived: "the default gateways",
                     about: "Neighbours, one of which has to answer a ping where there is no master (salt-call
                       --local)."}
  network:
    about: "How the bonds come back after a reboot."
    keys:
      manager: {type: choice, choices: [auto, ifupdown, networkd], default: auto,
                about: "What manages the bonds; auto: what the node runs now."}
  sessions:
    type: bool
    default: true
    about: "The standby holds a copy of every tunnel, so that tunnels survive a takeover (docs/session-takeover.md). Never in
      the profile `paper`."
  metrics:
    about: "Figures for the operator's own Prometheus (docs/metrics.md), where `features: {metrics: true}` is set."
    keys:
      every: {type: integer, unit: s, min: 5, max: 300, default: 15,
              about: "How often the node writes its figures.",
              counterpart: "`every` in gateway-metrics.json"}
      persons: {type: bool, default: false,
                about: "Whether people are named, each by the identity of its certificate; otherwise they are counted.",
                counterpart: "`persons` in gateway-metrics.json"}
      scrape_from: {type: list, of: network, default: [],
                    about: "From where prometheus-node-exporter (TCP 9100) may be asked: the networks of Prometheus; a
                      single address is a network with /32 or /128.",
                    counterpart: "`tcp dport 9100` in the ruleset"}
  features:
    about: "Each part of the tree can be left out."
    keys:
      kernel: {type: bool, default: true, about: "Kernel modules and parameters."}
      bonding: {type: bool, default: true, about: "Bonds, addresses and routes."}
      firewall: {type: bool, default: true, about: "The packet filter."}
      openswan: {type: bool, default: true, about: "IPsec."}
      heartbeat: {type: bool, default: true, about: "The two nodes as one."}
      logging: {type: bool, default: true, about: "The warnings' file, and heartbeat's."}
      time: {type: bool, default: true, about: "Time by NTP."}
      sshd: {type: bool, default: true, about: "SSH hardening."}
      services: {type: bool, default: true, about: "Unneeded services off."}
      monitoring: {type: bool, default: true, about: "The node reports to the master what happens to it."}
      metrics: {type: bool, default: false, about: "Figures for Prometheus (docs/metrics.md)."}
  packages:
    about: "The Debian packages each part needs."
    keys:
      kernel: {type: list, of: package, default: [kmod], about: "For the kernel."}
      bonding: {type: list, of: package, default: [], about: "For the bonds; iproute2 is there already."}
      firewall: {type: list, of: package, default: [nftables], about: "For the packet filter."}
      openswan: {type: list, of: package, default: [libreswan, libnss3-tools], about: "For IPsec."}
      heartbeat: {type: list, of: package, default: [heartbeat, resource-agents], about: "For heartbeat."}
      agent: {type: list, of: package, default: [python3],
              about: "For heartbeat too, where the role agent decides."}
      sessions: {type: list, of: package, default: [openssl, libnftables1],
                 about: "For heartbeat too, where the standby holds copies of the tunnels."}
      mail: {type: list, of: package, default: [bsd-mailx],
             about: "For heartbeat too, where heartbeat:mail_to is given."}
      logging: {type: list, of: package, default: [rsyslog, logrotate], about: "For the log."}
      time: {type: list, of: package, default: [chrony], about: "For the time."}
      sshd: {type: list, of: package, default: [openssh-server], about: "For SSH."}
      metrics: {type: list, of: package, default: [prometheus-node-exporter], about: "For the figures."}
