"""`trackproxy top`, in reading order: `look` (all that is asked for at once), `rows` (nodes as rows: columns,
sorting, filter, who is the last one), `plain` (a look as text), `screen` (the live view), `dialogs` (what it
asks)."""
