"""The command line. No arithmetic lives here."""
