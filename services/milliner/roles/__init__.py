"""The processes of a topology, cloud and device; the only readers of role configuration and environment."""
