"""Everything together, from outside: the service's processes, the local Stripe and the official CLI."""
