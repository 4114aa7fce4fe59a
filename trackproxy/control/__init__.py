"""The parts of the supervisor: `listeners` (sockets), `activation` (systemd), `children` (worker processes),
`generation` (the workers of one configuration), `cluster` (what is known of nodes and endpoints), `memory`
(what is kept on disk), `drain` (a node's way out), `watch` (the settings' file), `takeover` (what an upgrade
hands on), `views` and `sharing` (boards), `generations` (how one follows another), `tasks`."""
