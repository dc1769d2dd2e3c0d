"""Unlearning: make a language model forget a subject by clamping latents, and measure what else it loses."""
