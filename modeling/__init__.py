"""Model inputs to vectors, thoughts and scores. These files are copied flat into every checkpoint."""
