"""The owed actions, done: mails, the application, the reviewer, Stripe."""
