"""What the master makes of the gateways' events: who is told what, once.

Everything that decides (authentic, intake, incidents, presence, routes) is told the time and does no I/O, like
agent/decide.py; service.py puts the parts together and _engines/gateway_alerts.py gives them Salt's bus.
"""
