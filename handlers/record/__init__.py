"""What an event means: pure, from Stripe's JSON to a record and what it owes."""
