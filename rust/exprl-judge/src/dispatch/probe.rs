//! How many tokens a server's KV cache holds, as vLLM tells it on `/metrics`.

use std::sync::Arc;

use super::Dispatcher;

impl Dispatcher {
    /// Asks every server once. Until it has answered, and if it does not tell, only the window bounds
    /// what is in flight there.
    pub(super) fn ask_for_capacities(self: &Arc<Self>) {
        for lane in 0..self.servers.len() {
            let dispatcher = Arc::downgrade(self);
            // Ends with the answer, or with the transport's timeouts.
            self.handle.spawn(async move {
                let Some(dispatcher) = dispatcher.upgrade() else {
                    return;
                };
                let server = &dispatcher.servers[lane];
                let Some(page) = dispatcher.transport.get(server, "/metrics").await else {
                    return;
                };
                if let Some(tokens) = kv_tokens(&String::from_utf8_lossy(&page)) {
                    tracing::info!(server = %server.name, tokens, "the judge server's KV cache is known");
                    dispatcher.queues().schedule.set_capacity(lane, Some(tokens));
                }
            });
        }
    }
}

/// Reads `vllm:cache_config_info` (vLLM 0.10 to 0.32): the size in tokens of each engine, or blocks
/// (of all engines together) times their size.
fn kv_tokens(metrics: &str) -> Option<u64> {
    let mut lines = metrics
        .lines()
        .filter(|line| line.starts_with("vllm:cache_config_info{"))
        .peekable();
    let label = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    let first = *lines.peek()?;
    let blocks = || label(first, "num_gpu_blocks")?.checked_mul(label(first, "block_size")?);
    let mut sizes = lines.map(|line| label(line, "kv_cache_size_tokens"));
    let sizes = sizes.try_fold(0, |sum: u64, size| sum.checked_add(size?));
    sizes.or_else(blocks).filter(|&tokens| tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vllm_tells_the_size_of_its_cache() {
        let page = "# TYPE vllm:cache_config_info gauge\n\
            vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"1000\",num_gpu_blocks_override=\"None\"} 1.0\n";
        assert_eq!(kv_tokens(page), Some(16_000));
        let two = "vllm:cache_config_info{block_size=\"16\",kv_cache_size_tokens=\"5000\",num_gpu_blocks=\"9\"} 1.0\n\
            vllm:cache_config_info{block_size=\"16\",kv_cache_size_tokens=\"6000\",num_gpu_blocks=\"9\"} 1.0\n";
        assert_eq!(kv_tokens(two), Some(11_000));
        for silent in [
            "",
            "up 1\n",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1.0\n",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"9999999999999999999\"} 1.0\n",
        ] {
            assert_eq!(kv_tokens(silent), None);
        }
    }
}
