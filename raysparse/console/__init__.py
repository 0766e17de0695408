"""What a person types and sees: the command line, its arguments, tables, and the live view."""
