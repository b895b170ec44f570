"""Reading interactions, splitting them, and making some where there are none."""
