//! Cuts a rollout's tokens into steps at a delimiter, token-exactly.
