"""Stage 4: one page that says what was found, and opens offline."""
