"""Work on events: inbox, record, outbox, actions."""
