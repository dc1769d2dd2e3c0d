"""What an SAE keeps of activations and of the language model: the metrics of SAEBench and SAELens."""
