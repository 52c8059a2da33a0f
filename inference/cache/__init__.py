"""What may be reused: a prefix tree of KV blocks, under budgets, with a reason for every miss.

Holds opaque handles, never arrays; sees token ids and hashes, never messages. Used by the worker thread alone, so
nothing in here locks against other threads.
"""
