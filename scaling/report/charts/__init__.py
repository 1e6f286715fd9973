"""Charts of the report: one function a chart, each returning inline SVG that follows the page's colours."""
