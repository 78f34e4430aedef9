"""The meaning of events: pure, from Stripe's JSON to a record and the actions it owes."""
