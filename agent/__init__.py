"""The role agent: decides, from what heartbeat reports of both nodes, whether this node holds the virtual IPs."""
