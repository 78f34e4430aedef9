"""Everything together, from outside: the service's processes, the local Stripe, the official CLI and a browser."""
