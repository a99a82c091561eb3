# For a power cut between writing the files of a network or firewall change and its confirmation (docs/network.md). There
# before any such change. Nothing is started now: the unit is for the next boot, and does nothing then in most cases.
gateway-rollback-boot:
  file.managed:
    - name: /etc/systemd/system/gateway-rollback-boot.service
    - source: salt://bonding/files/gateway-rollback-boot.service
    - mode: '0644'

gateway-rollback-boot-wanted:
  file.symlink:
    - name: /etc/systemd/system/sysinit.target.wants/gateway-rollback-boot.service
    - target: /etc/systemd/system/gateway-rollback-boot.service
    - makedirs: True
    - require:
      - file: gateway-rollback-boot
