"""The sentence-transformers module of checkpoints that stock modules cannot express."""
