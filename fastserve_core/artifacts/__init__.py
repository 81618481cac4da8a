"""Results on the disk: artifacts, the store that holds them, hashes, atomic files."""
