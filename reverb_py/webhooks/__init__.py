"""
Webhooks: an app's backend is told by signed HTTP requests what happens on its channels.

`payload`, `backlog` and `retries` decide and are pure; an `endpoint` is one webhook with
its queue and its HTTP requests, whose addresses the `resolver` finds; `dispatch` keeps the promise
of `core.notices` with them.
"""
