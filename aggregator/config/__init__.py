"""Settings: from file and environment to frozen, validated values."""
