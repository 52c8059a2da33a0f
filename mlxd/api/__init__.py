"""The HTTP operations: bytes are checked, validated and converted, and answers written in the client's dialect.

strict_json -> schemas (validate) -> refusals -> convert -> runtime.open -> sse | reply
"""
