"""
Saying things to listening clients.

`broadcaster` puts an event into the outbox, in the transaction of what it announces; `relay` takes
it from there to the server through `reverb`, the signed HTTP API; `channel_rules` decides who may
listen. What is said, and to whom, is the features' business. `webhooks` is the other direction:
what the server tells us.
"""
