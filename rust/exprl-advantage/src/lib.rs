//! Judge scores to advantages: every kind of ExpRL, GRPO, RLOO, Dr. GRPO.
