"""Charts of the report: one function a chart, each a Vega-Lite specification in the page's colours."""
