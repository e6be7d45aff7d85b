"""Everything about the bus, and nothing about any service: what may be said (`topics`, `messages`, `codec`),
how it is carried (`api`, `client`, `memory`), and what makes it safe (`durable`, `requests`, `acl`).

    topics, messages, codec           the table of topics, the payload types, bytes to payloads and back
    effects, errors, ids              what a core decides; errors by whose fault; ids that several work out
    durable, requests                 facts and commands: outbox, inbox, command ids; asking an owner
    acl, listener, address            who may say and hear what; whose port that is; where the broker is
    api, base, client, memory         what a service needs, what all connections share, over MQTT, in memory
    router, snapshots, queues         what a connection is made of: subscriptions, own snapshots, waiting
    link, packets, patience           what the one over MQTT is made of: socket, bytes, when to give up
    surrogates                        half a surrogate pair in JSON
    bridge_wire                       what a bridge and ingest say to each other: not over the broker
    describe, asyncapi                the table as docs/topics.md and docs/asyncapi.json
"""
