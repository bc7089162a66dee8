"""PostgreSQL and Valkey from their wheels, for `aggregator up`."""
