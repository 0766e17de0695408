"""From text to batches: corpus -> tokenizer -> store (token shards) -> order (which tokens at which
step).

`store.prepare` is run once by a driver; everybody else opens the result with
`store.TokenStore.open` and reads `order.Batches`. Nothing here imports torch or ray, and `datasets`
and `tokenizers` are imported only where they are used.
"""
