"""Plain facts and files: keys, errors, manifests, embeddings, releases, the store. No Dagster, torch, FAISS, SQL or HTTP."""
