"""
A chat backend that says everything it has to say through a Pusher-protocol server.

The rooms, from the inside out; each imports only from those above it:

* `kernel`: the words everyone shares (errors, time, callers, routes, throttles); no I/O.
* `store`: the database without any feature in it: engine, transactions, the outbox, migrations.
* `realtime`: telling listening clients: events, who may listen, and the relay that gets them there;
  and being told by the server who comes and goes.
* `features`: the product. Each folder owns its tables, rules, routes and events.
* `telemetry`: what an operator sees: log lines and metrics.
* `web`: the HTTP edge: the aiohttp application, parsing, proxies, health, documentation.
* `settings`: reads the environment and `.env`, and checks every value.
* `runtime`: assembles everything, starts and stops it; `cli`: the `chat-api` command.

Of the server it talks to, it knows the wire (`reverb_py.protocol`) and nothing else.
"""
