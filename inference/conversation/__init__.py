"""Messages to prompts: everything about text and structure, nothing about KV.

`render` turns a conversation into the ids a model reads; `Preparer` does the same off the event loop.
"""
