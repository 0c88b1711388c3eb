"""The providers' own paths, answered from the bridge's one poll per task."""
