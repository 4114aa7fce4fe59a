"""Metrics for Prometheus: `exposition` (the answer to GET /metrics), `seen` (what is read, and where),
`catalogue` (every metric there is), `filling` (from the one to the other), `sheet` (the text),
`processes` (what the kernel says of ours), `ends` (until when certificates are good), `document` (the table
of all metrics).
"""
