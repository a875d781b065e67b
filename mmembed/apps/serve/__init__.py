"""A model behind HTTP: encode, search, rerank, and OpenAI's embeddings.

| file | its question |
|---|---|
| `limits` | how much may be asked at once? |
| `rejections` | what is said when a request is not served? |
| `gate` | which requests reach the model? |
| `request_bodies` | how is a body read, so that it is bounded and means what it says? |
| `requests` | what may be asked? |
| `batching` | how do requests that come together share a forward pass? |
| `served` | what does the model answer? |
| `metrics` | what is counted? |
| `app` | which address does what? |
| `running` | how does the server start, and how does it stop? |
"""
