"""
Webhooks: an app's backend is told by signed HTTP requests what happens on its channels.

`payload`, `holding` and `retries` decide and are pure; an `endpoint` is one webhook with its queue
and its HTTP requests; `dispatch` keeps the promise of `core.notices` with them.
"""
