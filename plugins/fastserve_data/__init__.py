"""Where rows come from: files, the demo sets, a hub."""
