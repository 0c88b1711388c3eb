"""Settings: read from TOML and the environment, validated together."""
