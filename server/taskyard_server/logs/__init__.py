"""The bytes of each run's log."""
