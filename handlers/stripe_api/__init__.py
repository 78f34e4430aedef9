"""The few calls we make to Stripe, each with a timeout."""
