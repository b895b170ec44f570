"""From interests to candidates: index, quotas, cold start. Knows numpy and Faiss only."""
