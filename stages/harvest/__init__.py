"""Stage 1: text -> activation store. The language model runs once, in token order."""
