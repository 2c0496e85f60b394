"""What importers share: their declaration, readers with limits, lenses, and the writer of Scenes."""
