"""Items to model inputs. These files are copied flat into every checkpoint."""
