"""`make demo`: the service at work on made-up persons."""
