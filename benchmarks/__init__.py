"""Commands that reproduce published tables, and time the package against its own parts."""
