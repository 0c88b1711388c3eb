"""Simulated providers, including their failures. Shares no code with the bridge."""
