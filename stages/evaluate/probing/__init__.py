"""What can be told from few latents: topics, parts of speech, documents."""
