"""Stage 3: what a trained SAE keeps of the activations and of the language model, on heldout documents."""
