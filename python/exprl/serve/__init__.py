"""vLLM servers of the policy and of the judge: how they are started, guarded, fed and ended."""
