"""What an operator asks and changes, for the commands and the console."""
