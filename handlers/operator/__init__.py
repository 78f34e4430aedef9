"""What an operator asks and changes, for the commands now and a page later."""
