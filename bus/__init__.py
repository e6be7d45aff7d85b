"""Everything about the bus, and nothing about any service: what may be said (`topics`, `messages`, `codec`),
how it is carried (`api`, `client`, `memory`), and what makes it safe (`durable`, `requests`, `acl`).
"""
