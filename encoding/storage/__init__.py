"""Files on disk that umekit writes and reads again: whole or not at all, checked, and never anybody else's."""
