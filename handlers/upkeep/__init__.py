"""What the schedule keeps right: what never arrived, what differs, what may go."""
