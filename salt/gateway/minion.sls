# The minion's settings for a state run whose tree it has already (orch.resync). In a folder of its own: Salt reads the
# minion.d beside such a file, too.
/etc/salt/gateway/same-tree.conf:
  file.managed:
    - source: salt://gateway/files/same-tree.conf
    - mode: '0644'
    - makedirs: True
