"""The parts of ``umekit demo``: a gallery of real files, queries with known answers, and a contact sheet."""
