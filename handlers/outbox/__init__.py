"""What is owed, done: mails, the application, the reviewer, Stripe."""
