"""The parts of the supervisor, which joins them.

What there is: `listeners` (sockets), `activation` (systemd), `children` (worker processes), `generation` (the
workers of one configuration), `generations` (how one follows another), `cluster`, `probing` and `panics`
(what is known of nodes and endpoints), `views`, `sharing`, `traffic` (boards), `memory`, `store`, `database`
(what is kept on disk), `changes` and `overrides` (what operators have changed), `recent` and `events` (what
is told).

What is done: `turns` (one change at a time), `reloads` (settings that were loaded), `node_states` and
`node_values` (what operators say of nodes), `drain` (a node's way out), `audit` (who has asked for it),
`upgrades` and `takeover` (another program), `beginning`, `ending`; `pulse`, `watch` and `tasks` meanwhile.
"""
