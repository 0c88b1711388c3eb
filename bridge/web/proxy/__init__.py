"""The providers' own paths, served from the bridge's one poll per task."""
