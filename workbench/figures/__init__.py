"""Pictures: pure functions from results to plotly figures, and how a live one is redrawn."""
