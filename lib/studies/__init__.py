"""One folder a notebook: what only that paper's study uses."""
