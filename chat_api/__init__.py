"""
A chat backend that says everything it has to say through a Pusher-protocol server.

The rooms, from the inside out; each imports only from those above it:

* `kernel`: the words everyone shares (errors, time, callers, routes, throttles); no I/O.
* `store`: the database without any feature in it: engine, transactions, the outbox, migrations.
* `realtime`: telling listening clients: events, who may listen, and the relay that gets them there.
* `features`: the product. Each folder owns its tables, rules, routes and events; `chats` builds on
  `auth`, never the other way round.
* `web`: the HTTP edge: aiohttp application, parsing, health.
* `settings`, `logs`, `runtime`, `cli`: read the environment, assemble everything, start and stop
  it, and say so.

Of the server it talks to, it knows the wire (`reverb_py.protocol`) and nothing else.
"""
