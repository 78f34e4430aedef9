"""What every process shares: settings, logs, the database, the broker."""
