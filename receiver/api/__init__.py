"""The application's half: verifications are opened, entered and ended over HTTP by who holds one of API_TOKENS."""
