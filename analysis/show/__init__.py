"""The answer for people: pictures, and the report that holds them."""
