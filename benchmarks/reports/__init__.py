"""Programs that measure a question as a whole and leave a CSV, a page and plots; and the committed results."""
