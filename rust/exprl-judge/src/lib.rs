//! Grades many model outputs with an LLM judge: order, routing, retries, ledger.
