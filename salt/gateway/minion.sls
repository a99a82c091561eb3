# The minion's settings for a state run whose file tree it has already (orch.resync). The file is in a folder of its
# own, because Salt also reads the minion.d beside such a file.
/etc/salt/gateway/same-tree.conf:
  file.managed:
    - source: salt://gateway/files/same-tree.conf
    - mode: '0644'
    - makedirs: True
