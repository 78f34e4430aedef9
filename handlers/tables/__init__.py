"""The schema on one page, and the migrations that bring a database to it."""
