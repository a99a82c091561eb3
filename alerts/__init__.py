"""Alerts: the master turns the gateways' events into messages to people, each once.

The files that decide (authentic, intake, incidents, presence, apart, limits, routes) get the time as an argument, like
agent/decide.py. They do no I/O, but for the secret and the site files that authentic reads. service.py puts the parts
together, and _engines/gateway_alerts.py connects them to Salt's bus.
"""
