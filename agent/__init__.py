"""The role agent: holds the virtual IPs when heartbeat's word on the two nodes says so."""
