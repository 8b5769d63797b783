"""Items to model inputs. These files are joined into every checkpoint."""
