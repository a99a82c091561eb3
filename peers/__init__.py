"""gateway-peers: calls peers that have several addresses or a name. Libreswan itself calls one address only."""
