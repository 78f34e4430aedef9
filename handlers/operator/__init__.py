"""An operator's questions and changes, for the commands and the console."""
