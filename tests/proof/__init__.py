"""The proof that the main job works, with nothing simulated but the model."""
