"""What operators' commands do: `place` (which trackproxy is meant), `client` (asks it), `drain` (waits for
its end), `table` (nodes as text)."""
