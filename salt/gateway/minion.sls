# The minion's settings for a state run whose file tree it has already (orch.resync). The file is in a folder of its
# own, because Salt also reads the minion.d beside such a file.
/etc/salt/gateway/same-tree.conf:
  file.managed:
    - source: salt://gateway/files/same-tree.conf
    - mode: '0644'
    - makedirs: True

# The drop-in counts from the minion's next start; the state below it gives the one that runs the same limit.
/etc/systemd/system/salt-minion.service.d/gateway.conf:
  file.managed:
    - source: salt://gateway/files/salt-minion.service.conf
    - mode: '0644'
    - makedirs: True
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/salt-minion.service.d/gateway.conf

minion_leaves_no_core:
  cores.none:
    - services: [salt-minion]
