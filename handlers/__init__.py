"""What an event means: inbox, record, outbox, actions."""
