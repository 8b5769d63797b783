"""Model inputs to vectors, thoughts and scores. These files are joined into the code of every checkpoint."""
