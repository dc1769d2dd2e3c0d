"""What an SAE makes of the order of tokens: temporal metrics, their nulls and references."""
