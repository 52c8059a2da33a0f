"""All dialects by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.cohere import COHERE
from inference.streaming.dialects.deepseek import DEEPSEEK
from inference.streaming.dialects.gemma import FUNCTION_GEMMA, GEMMA4
from inference.streaming.dialects.harmony import HARMONY
from inference.streaming.dialects.invoke import DSML, MINIMAX_M2, MUSE_SPARK
from inference.streaming.dialects.json_calls import JSON
from inference.streaming.dialects.kimi_k2 import KIMI_K2
from inference.streaming.dialects.kimi_k3 import KIMI_K3
from inference.streaming.dialects.llama_calls import LLAMA
from inference.streaming.dialects.longcat import LONGCAT
from inference.streaming.dialects.minicpm5 import MINICPM5
from inference.streaming.dialects.minimax_m3 import MINIMAX_M3
from inference.streaming.dialects.mistral_calls import MISTRAL
from inference.streaming.dialects.pythonic import PYTHONIC
from inference.streaming.dialects.tagged_calls import TAGGED
from inference.streaming.dialects.unwrapped_calls import UNWRAPPED
from inference.streaming.dialects.xml_calls import XML

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            *(JSON, XML, TAGGED, MISTRAL, LLAMA, UNWRAPPED),
            *(COHERE, DEEPSEEK, DSML, FUNCTION_GEMMA, GEMMA4, HARMONY, KIMI_K2, KIMI_K3, LONGCAT, MINICPM5),
            *(MINIMAX_M2, MINIMAX_M3, MUSE_SPARK, PYTHONIC),
        )
    }
)

ALWAYS: Final = ("json", "xml", "tagged", "mistral", "llama_json", "unwrapped")
"""Those that are read whatever the model: nothing else that a model says begins like them."""
