"""Plain facts and files: keys, errors, manifests, embeddings, releases, store. No Dagster, torch, FAISS, SQL, HTTP."""
