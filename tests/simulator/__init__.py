"""A life-like local Stripe for Identity: API, person, deliveries and `stripe listen`, in memory, one process."""
