"""Items to model inputs. These files are joined into the code of every checkpoint."""
